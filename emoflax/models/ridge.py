"""Ridge regression of every class, whose strength left-out speakers choose: the one of all closed-form models.

With kernel matrix K of the clips, class weights W and M = inverse(K + ridge / W), the fit is X' M y, and the prediction
for a set S of clips by the fit without S is  y_S - inverse(M_SS) (M y)_S  (block inversion; Cook & Weisberg 1982,
section 2.2). So one inverse per ridge gives the prediction of every training speaker by the fit without that speaker;
from these comes the temperature that makes scores into probabilities (Guo et al. 2017). With an intercept that is not
penalised, M is the inverse of [[K + ridge / W, 1], [1', 0]] without its last row and column.

Shape letters: N clips, D features, C classes, G groups of clips that are left out together, S clips of one of them.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from emoflax.errors import UserError

_TEMPERATURES = np.geomspace(0.5, 50, 100)
_PARTS = 5  # that clips are left out in, where fewer than two speakers are known


@dataclasses.dataclass(frozen=True)
class Solution:
    """`kernel` [features, classes]: features @ kernel are logits. `uar`: of left-out speakers, 0 to 1.

    `left_out` [clips, classes]: logits of every training clip by the fit without its speaker.
    """

    kernel: np.ndarray
    ridge: float
    uar: float
    left_out: np.ndarray


@dataclasses.dataclass(frozen=True)
class Groups:
    """Clips that are left out together: `place_GxS` are those of each group, as far as `there_GxS` holds."""

    place_GxS: np.ndarray
    there_GxS: np.ndarray

    @classmethod
    def of(cls, groups: Sequence[np.ndarray]) -> "Groups":
        there_GxS = np.arange(max(map(len, groups)))[None] < np.array([len(group) for group in groups])[:, None]
        place_GxS = np.zeros(there_GxS.shape, int)
        place_GxS[there_GxS] = np.concatenate(groups)
        return cls(place_GxS, there_GxS)


def correlation_ratio(x_NxD: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Share of each feature's variance that the labels explain, [features], 0 to 1 (Fisher 1925, chapter VII)."""
    labels, place_N, count_C = np.unique(label_N, return_inverse=True, return_counts=True)
    mean_CxD = np.stack([x_NxD[place_N == c].mean(0) for c in range(len(labels))])
    within = ((x_NxD - mean_CxD[place_N]) ** 2).mean(0)
    between = count_C @ (mean_CxD - x_NxD.mean(0)) ** 2 / len(x_NxD)
    return between / np.maximum(between + within, 1e-12)


def balance(label_N: np.ndarray, classes: int, clips: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Weight of each clip: the inverse of its class's share among those clips, so that every class weighs the same."""
    counts = np.bincount(label_N[clips], minlength=classes)
    weight = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return weight[label_N]


def inverse(kernel_NxN: np.ndarray, penalty_N: np.ndarray, *, intercept: bool) -> np.ndarray:
    """M of the module's docstring, for penalty_N = ridge / weights.

    Raises:
      UserError: the penalty is too small for the matrix to be inverted.
    """
    from scipy.linalg import lapack

    system = kernel_NxN.copy()
    np.fill_diagonal(system, system.diagonal() + penalty_N)
    factor, failed = lapack.dpotrf(system.T, lower=0, overwrite_a=1)  # .T: LAPACK's order, without a copy
    m_NxN, _ = lapack.dpotri(factor, lower=0, overwrite_c=1)
    if failed:
        raise UserError("the smallest ridge of the config is too small for these features; take it out")
    m_NxN = np.add(m_NxN, m_NxN.T, order="C")  # only one triangle was filled, the other is zero
    np.fill_diagonal(m_NxN, m_NxN.diagonal() / 2)
    if intercept:
        sums_N = m_NxN.sum(1)
        m_NxN -= np.outer(sums_N, sums_N / sums_N.sum())
    return m_NxN


def left_out(m_GxSxS: np.ndarray, my_GxSxC: np.ndarray, target_GxSxC: np.ndarray, there_GxS: np.ndarray) -> np.ndarray:
    """Predictions [groups, clips, classes] for the clips of each group by the fit without that group.

    Args:
      m_GxSxS, my_GxSxC, target_GxSxC: M, M y and y of each group's clips; what is not `there` means nothing.
    """
    # A group with fewer clips than others is filled up with a unit matrix.
    both_GxSxS = there_GxS[:, :, None] & there_GxS[:, None]
    m_GxSxS = np.where(both_GxSxS, m_GxSxS, np.eye(m_GxSxS.shape[1])[None])
    return target_GxSxC - np.linalg.solve(m_GxSxS, my_GxSxC * there_GxS[..., None])


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
    weight_N, groups = balance(label_N, classes), groups_of(speaker_N)
    target_NxC = np.eye(classes)[label_N] - 1 / classes
    kernel_NxN = (x_NxD @ x_NxD.T).astype(np.float64)
    size = kernel_NxN.trace() / len(label_N)
    fits = []
    for ridge in ridges:
        m_NxN = inverse(kernel_NxN / size, ridge / weight_N, intercept=False)
        scores_NxC = scores_of_left_out(m_NxN, target_NxC, groups)
        temperature, likelihood = _calibrate(scores_NxC, label_N, weight_N)
        hits = scores_NxC.argmax(1) == label_N
        uar = np.mean([hits[label_N == c].mean() for c in np.unique(label_N)])
        dual_NxC = temperature / size * (m_NxN @ target_NxC)
        fits.append((likelihood, ridge, dual_NxC, uar, temperature * scores_NxC))
    _, ridge, dual_NxC, uar, left_out_NxC = max(fits, key=lambda each: each[0])
    return Solution(x_NxD.T @ dual_NxC.astype(x_NxD.dtype), ridge, float(uar), left_out_NxC)


def groups_of(speaker_N: np.ndarray) -> Groups:
    """The clips of each speaker, or every fifth clip where all are by one."""
    groups = [np.flatnonzero(speaker_N == speaker) for speaker in np.unique(speaker_N)]
    if len(groups) < 2:
        groups = [groups[0][start::_PARTS] for start in range(min(_PARTS, len(groups[0])))]
    return Groups.of(groups)


def scores_of_left_out(m_NxN: np.ndarray, target_NxC: np.ndarray, groups: Groups) -> np.ndarray:
    """Scores [clips, classes] of every clip by the fit without its group."""
    place, there = groups.place_GxS, groups.there_GxS
    m_GxSxS = m_NxN[place[:, :, None], place[:, None]]
    scores = np.empty_like(target_NxC)
    scores[place[there]] = left_out(m_GxSxS, (m_NxN @ target_NxC)[place], target_NxC[place], there)[there]
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
