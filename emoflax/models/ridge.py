"""Ridge regression of every class on thousands of features, solved at once; how strongly is asked of left-out speakers.

With kernel matrix K of the clips, class weights W and M = inverse(K + ridge / W), the fit is X' M y, and the prediction
for a set S of clips by the fit without S is  y_S - inverse(M_SS) (M y)_S  (block inversion; Cook & Weisberg 1982,
section 2.2). So one inverse per ridge tells how every training speaker fares when left out; from the same answers comes
the temperature that makes scores into probabilities (Guo et al. 2017).
"""

import dataclasses

import numpy as np

_TEMPERATURES = np.geomspace(0.5, 50, 100)
_SETS = 5  # of clips, where fewer than two speakers are known


@dataclasses.dataclass(frozen=True)
class Solution:
    """`kernel` [features, classes]: features @ kernel are logits. `uar`: of left-out speakers, 0 to 1."""

    kernel: np.ndarray
    ridge: float
    uar: float


def correlation_ratio(x_NxD: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Share of each feature's variance that the labels explain, [features], 0 to 1 (Fisher 1925, chapter VII)."""
    labels, place_N, count_C = np.unique(label_N, return_inverse=True, return_counts=True)
    mean_CxD = np.stack([x_NxD[place_N == c].mean(0) for c in range(len(labels))])
    within = ((x_NxD - mean_CxD[place_N]) ** 2).mean(0)
    between = count_C @ (mean_CxD - x_NxD.mean(0)) ** 2 / len(x_NxD)
    return between / np.maximum(between + within, 1e-12)


def solve(
    x_NxD: np.ndarray, label_N: np.ndarray, classes: int, speaker_N: np.ndarray, ridges: tuple[float, ...]
) -> Solution:
    """The fit whose ridge makes left-out speakers' labels most likely.

    Args:
      x_NxD: features of the training clips, each of mean 0.
      label_N: 0 to classes - 1.
      speaker_N: name of each clip's speaker.
      ridges: to choose from, as multiples of the mean squared length of a clip's features.
    """
    count_C = np.bincount(label_N, minlength=classes)
    weight_N = len(label_N) / (np.count_nonzero(count_C) * count_C[label_N])
    target_NxC = np.eye(classes)[label_N] - 1 / classes
    kernel_NxN = (x_NxD @ x_NxD.T).astype(np.float64)
    size = kernel_NxN.trace() / len(label_N)
    found = []
    for ridge in ridges:
        m_NxN = np.linalg.inv(kernel_NxN / size + np.diag(ridge / weight_N))
        scores_NxC = _left_out(m_NxN, target_NxC, _sets(speaker_N))
        temperature, likelihood = _calibrate(scores_NxC, label_N, weight_N)
        hits = scores_NxC.argmax(1) == label_N
        uar = np.mean([hits[label_N == c].mean() for c in np.flatnonzero(count_C)])
        found.append((likelihood, ridge, temperature / size * (m_NxN @ target_NxC), uar))
    _, ridge, dual_NxC, uar = max(found, key=lambda each: each[0])
    return Solution(x_NxD.T @ dual_NxC.astype(x_NxD.dtype), ridge, float(uar))


def _sets(speaker_N: np.ndarray) -> list[np.ndarray]:
    """Clips to be left out together: those of a speaker, or every fifth where all are by one."""
    groups = [np.flatnonzero(speaker_N == speaker) for speaker in np.unique(speaker_N)]
    return groups if len(groups) > 1 else [groups[0][start::_SETS] for start in range(min(_SETS, len(groups[0])))]


def _left_out(m_NxN: np.ndarray, target_NxC: np.ndarray, sets: list[np.ndarray]) -> np.ndarray:
    my_NxC = m_NxN @ target_NxC
    scores = np.empty_like(target_NxC)
    for part in sets:
        scores[part] = target_NxC[part] - np.linalg.solve(m_NxN[np.ix_(part, part)], my_NxC[part])
    return scores


def _calibrate(scores_NxC: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray) -> tuple[float, float]:
    """(factor of the scores, mean log-likelihood) under which the labels are most likely."""
    likelihoods = []
    for factor in _TEMPERATURES:
        logits = factor * scores_NxC
        logits -= logits.max(1, keepdims=True)
        log_p = logits[np.arange(len(label_N)), label_N] - np.log(np.exp(logits).sum(1))
        likelihoods.append(np.average(log_p, weights=weight_N))
    best = int(np.argmax(likelihoods))
    return float(_TEMPERATURES[best]), float(likelihoods[best])
