"""Several models' answers as one: a logarithmic opinion pool, the product of their probabilities raised to weights.

Genest & Zidek 1986, "Combining probability distributions". Weights are those that make the labels of clips which no
model was trained on likeliest; they need not add up to 1, so that models which agree may be surer together than alone.
"""

from collections.abc import Sequence

import numpy as np

from emoflax.reporting import calibration

LEAST_WEIGHT = 0.01  # less is not worth training a model for


def mix(log_p_MxNxC: Sequence[np.ndarray], weight_M: Sequence[float]) -> np.ndarray:
    """Log-probabilities [clips, classes] of the pool."""
    mixed_NxC = sum(weight * log_p for weight, log_p in zip(weight_M, log_p_MxNxC, strict=True))
    return mixed_NxC - np.logaddexp.reduce(mixed_NxC, axis=1, keepdims=True)


def weights(log_p_MxNxC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Weights [models] from 0 on under which the pool makes the labels likeliest.

    Those under LEAST_WEIGHT become 0; where all would, since no model tells anything, they are equal. This is
    multinomial logistic regression on the models' log-probabilities with one coefficient per model, so its likelihood
    is concave and has no second peak.
    """
    from scipy.optimize import minimize  # half a second, wanted only here

    log_p_MxNxC = np.asarray(log_p_MxNxC, np.float64)
    clips = np.arange(len(label_N))
    told_MxN = log_p_MxNxC[:, clips, label_N]

    def loss_and_slope(weight_M):
        log_q_NxC = mix(log_p_MxNxC, weight_M)
        expected_MxN = (log_p_MxNxC * np.exp(log_q_NxC)).sum(2)
        return -log_q_NxC[clips, label_N].mean(), (expected_MxN - told_MxN).mean(1)

    equal_M = np.full(len(log_p_MxNxC), 1 / len(log_p_MxNxC))
    found = minimize(loss_and_slope, equal_M, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(equal_M))
    weight_M = np.where(found.x < LEAST_WEIGHT, 0, found.x)
    return weight_M if weight_M.any() else equal_M


def sparse_weights(log_p_MxNxC: np.ndarray, label_N: np.ndarray, speaker_N: np.ndarray) -> np.ndarray:
    """As `weights`, of the models alone that help speakers who had no part in the weights; 0 for the others.

    Forward selection: the likeliest model first, then the one that raises the likelihood of left-out speakers' labels
    most, as long as there is one. A model that tells nothing can make a few speakers' labels likelier by accident, and
    other speakers' labels less likely. To ask for a gain of a standard error over five speakers would leave out
    models that help the speakers to come.

    All weights are then divided by the temperature of the left-out speakers' answers, for those who had a part in the
    weights make them a little too large.
    """
    if len(np.unique(speaker_N)) < 2:
        return weights(log_p_MxNxC, label_N)
    chosen: list[int] = []
    log_q_NxC, best = None, -np.inf
    while left := [model for model in range(len(log_p_MxNxC)) if model not in chosen]:
        tried = {model: _of_left_out_speakers(log_p_MxNxC[[*chosen, model]], label_N, speaker_N) for model in left}
        likelihood = {model: _mean_likelihood(tried[model], label_N, speaker_N) for model in left}
        model = max(left, key=likelihood.__getitem__)
        if likelihood[model] <= best:
            break
        chosen, log_q_NxC, best = [*chosen, model], tried[model], likelihood[model]
    weight_M = np.zeros(len(log_p_MxNxC))
    weight_M[chosen] = weights(log_p_MxNxC[chosen], label_N) / calibration.fit_temperature(log_q_NxC, label_N)
    return weight_M


def _of_left_out_speakers(log_p_MxNxC: np.ndarray, label_N: np.ndarray, speaker_N: np.ndarray) -> np.ndarray:
    """Log-probabilities [clips, classes] of the pool, of each speaker under the weights of the others."""
    log_q_NxC = np.empty(log_p_MxNxC.shape[1:])
    for speaker in np.unique(speaker_N):
        own_N = speaker_N == speaker
        log_q_NxC[own_N] = mix(log_p_MxNxC[:, own_N], weights(log_p_MxNxC[:, ~own_N], label_N[~own_N]))
    return log_q_NxC


def _mean_likelihood(log_q_NxC: np.ndarray, label_N: np.ndarray, speaker_N: np.ndarray) -> float:
    """Log-likelihood of the labels, mean over each speaker's clips and then over speakers."""
    told_N = log_q_NxC[np.arange(len(label_N)), label_N]
    return float(np.mean([told_N[speaker_N == speaker].mean() for speaker in np.unique(speaker_N)]))
