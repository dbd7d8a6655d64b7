"""Ridge regression of every class, whose strength left-out speakers choose: the one of all closed-form models.

With kernel matrix K of the clips, class weights W and M = inverse(K + ridge / W), the fit is X' M y, and the prediction
for a set S of clips by the fit without S is  y_S - inverse(M_SS) (M y)_S  (block inversion; Cook & Weisberg 1982,
section 2.2). So one inverse per ridge gives the prediction of every training speaker by the fit without that speaker;
from these comes the temperature that makes scores into probabilities (Guo et al. 2017). With an intercept that is not
penalised, M is the inverse of [[K + ridge / W, 1], [1', 0]] without its last row and column.

Shape letters: N clips, D features, C classes, G groups of clips that are left out together, S clips of one of them.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from emoflax.errors import UserError

_TEMPERATURES = np.geomspace(0.5, 50, 100)
_BLOCK = 4096  # rows
_PARTS = 5  # that clips are left out in, where fewer than two speakers are known
# Groups and clips that are enough to choose a penalty. To leave out a clip costs, for each penalty, as many operations
# as its share of the normal equations.
_GROUPS, _CLIPS = 20, 20_000


@dataclasses.dataclass(frozen=True)
class Solution:
    """`kernel` [features, classes], `bias` [classes]: features @ kernel + bias are logits. `uar`: of left-out speakers.

    `left_out` [clips, classes]: logits of every training clip by the fit without its group; -inf for a class that no
    other group has, and for clips of the groups that `groups_of` passes over.
    """

    kernel: np.ndarray
    bias: np.ndarray
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


def row_blocks(count: int) -> list[slice]:
    """Places of so many rows at a time that float64 copies of them are small beside all rows."""
    return [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]


def moments(x_NxD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [features], float64, without a copy of all rows."""
    mean = x_NxD.mean(0, dtype=np.float64)
    squares = sum(np.square(x_NxD[rows] - mean).sum(0) for rows in row_blocks(len(x_NxD)))
    return mean, np.sqrt(squares / len(x_NxD))


def correlation_ratio(x_NxD: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Share of each feature's variance that the labels explain, [features], 0 to 1 (Fisher 1925, chapter VII)."""
    labels, place_N, count_C = np.unique(label_N, return_inverse=True, return_counts=True)
    mean, std = moments(x_NxD)
    sum_CxD = np.zeros((len(labels), x_NxD.shape[1]))
    for rows in row_blocks(len(x_NxD)):
        sum_CxD += (place_N[rows] == np.arange(len(labels))[:, None]) @ (x_NxD[rows] - mean)
    between = (sum_CxD**2 / count_C[:, None]).sum(0) / len(x_NxD)
    return between / np.maximum(std**2, 1e-12)


def balance(
    label_N: np.ndarray, classes: int, clips: np.ndarray | slice = slice(None), power: float = 1.0
) -> np.ndarray:
    """Weight of each clip: the inverse of its class's share among those clips, to `power`.

    At 1 every class weighs the same, at 0 every clip.
    """
    counts = np.bincount(label_N[clips], minlength=classes)
    weight = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return (weight**power)[label_N]


def inverse(kernel_NxN: np.ndarray, penalty_N: np.ndarray, *, intercept: bool) -> np.ndarray:
    """M of the module's docstring, for penalty_N = ridge / weights.

    Raises:
      UserError: the penalty is too small for the matrix to be inverted.
    """
    from scipy.linalg import lapack

    factor = _factor(kernel_NxN, penalty_N)
    m_NxN, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    m_NxN = np.add(m_NxN, m_NxN.T, order="C")  # only one triangle was filled, the other is zero
    np.fill_diagonal(m_NxN, m_NxN.diagonal() / 2)
    if intercept:
        sums_N = m_NxN.sum(1)
        m_NxN -= np.outer(sums_N, sums_N / sums_N.sum())
    return m_NxN


def _factor(matrix: np.ndarray, penalty: np.ndarray | float) -> np.ndarray:
    """Lower Cholesky factor of a symmetric matrix with the penalty on its diagonal, in LAPACK's order: one copy in all.

    Raises:
      UserError: the penalty is too small for the matrix to be inverted.
    """
    from scipy.linalg import lapack

    system = matrix.copy()
    np.fill_diagonal(system, system.diagonal() + penalty)
    lower, failed = lapack.dpotrf(system.T, lower=1, overwrite_a=1)  # .T: LAPACK's order, without a copy
    if failed:
        raise UserError("the smallest ridge of the config is too small for these features; take it out")
    return lower


def left_out(m_GxSxS: np.ndarray, my_GxSxC: np.ndarray, target_GxSxC: np.ndarray, there_GxS: np.ndarray) -> np.ndarray:
    """Predictions [groups, clips, classes] for the clips of each group by the fit without that group.

    Args:
      m_GxSxS, my_GxSxC, target_GxSxC: M, M y and y of each group's clips; what is not `there` means nothing.
    """
    # A group with fewer clips than others is filled up with a unit matrix.
    both_GxSxS = there_GxS[:, :, None] & there_GxS[:, None]
    m_GxSxS = np.where(both_GxSxS, m_GxSxS, np.eye(m_GxSxS.shape[1])[None])
    return target_GxSxC - np.linalg.solve(m_GxSxS, my_GxSxC * there_GxS[..., None])


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What is known of the training clips.

    Attributes:
      label_N: 0 to classes - 1.
      group_N: whom each clip is left out with, to choose the penalty and the temperature: its speaker, or its corpus.
      weight_N: mean 1.
      known_NxC: bool, whether the clip's corpus has that class. It tells nothing about one that it does not have.
    """

    label_N: np.ndarray
    group_N: np.ndarray
    weight_N: np.ndarray
    known_NxC: np.ndarray

    @classmethod
    def of(
        cls, label_N: np.ndarray, classes: int, group_N: np.ndarray, corpus_N: Sequence[str] = (),
        *, balance_corpora: bool = False, class_weighting: float = 1.0,
    ) -> "Labelled":  # fmt: skip
        """Classes weigh as `class_weighting` says; with `balance_corpora` within each corpus, and corpora the same.

        Args:
          corpus_N: name of each clip's corpus; empty: there is one.
          class_weighting: power of `balance`.
        """
        _, place_N = np.unique(corpus_N if len(corpus_N) else np.zeros(len(label_N)), return_inverse=True)
        count_KxC = np.zeros((place_N.max() + 1, classes), int)
        np.add.at(count_KxC, (place_N, label_N), 1)
        known_KxC = (count_KxC > 0) | ~count_KxC.any(0)  # a class that no corpus has is left out by none
        weight_N = balance(label_N, classes, power=class_weighting)
        if balance_corpora:
            weight_N = 1 / count_KxC[place_N, label_N] ** class_weighting
            weight_N /= np.bincount(place_N, weight_N)[place_N]
        return cls(label_N, group_N, weight_N / weight_N.mean(), known_KxC[place_N])


def solve(x_NxD: np.ndarray, clips: Labelled, ridges: Sequence[float]) -> Solution:
    """The fit whose ridge makes left-out groups' labels most likely, among the classes that their corpus has.

    With fewer features than clips, the same numbers come from the features' own matrix, added up over blocks of clips:
    time then grows with the number of clips, and beside them memory holds two matrices of the features alone.

    Args:
      x_NxD: features of the training clips, each of mean 0.
      ridges: to choose from, as multiples of the mean squared length of a clip's features.
    """
    size = sum(float(np.square(x_NxD[rows], dtype=np.float64).sum()) for rows in row_blocks(len(x_NxD))) / len(x_NxD)
    groups, classes = groups_of(clips.group_N), clips.known_NxC.shape[1]
    columns = [(part, _system(part.of(x_NxD), part.of(clips.weight_N))) for part in _columns(clips, groups)]
    # Of a clip of which nothing is known: the weighted share of each class, less their mean; 0 where they are balanced.
    # Shares among the clips of different corpora do not compare, and are left out.
    share_C = columns[0][0].share_C if len(columns) == 1 else np.zeros(classes)
    share_C = share_C - share_C.mean()
    fits = []
    for ridge in ridges:
        scores_NxC, kernel_DxC = np.full((len(x_NxD), classes), -np.inf), np.zeros((x_NxD.shape[1], classes))
        for part, system in columns:
            kernel_DxC[:, part.classes], scores = _solved(x_NxD, part, system(ridge * size, part.target_NxC))
            scores_NxC[np.ix_(part.rows, part.classes)] = scores
        scores_NxC += share_C
        likelihood, temperature, uar = rated(scores_NxC, clips)
        fits.append((likelihood, temperature, ridge, kernel_DxC, uar, scores_NxC))
    _, temperature, ridge, kernel_DxC, uar, scores_NxC = max(fits, key=lambda each: each[0])
    kernel_DxC, bias_C = ((temperature * part).astype(x_NxD.dtype) for part in (kernel_DxC, share_C))
    return Solution(kernel_DxC, bias_C, ridge, uar, temperature * scores_NxC)


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Classes about which the same clips tell something: these clips' rows, targets, and groups of places in `rows`.

    share_C: weighted share of each class among them, which was taken off the targets.
    """

    classes: np.ndarray
    rows: np.ndarray
    share_C: np.ndarray
    target_NxC: np.ndarray
    groups: list[np.ndarray]

    def of(self, array: np.ndarray) -> np.ndarray:
        """Its rows, without a copy where these are all."""
        return array if len(self.rows) == len(array) else array[self.rows]


def _columns(clips: Labelled, groups: Sequence[np.ndarray]) -> list[_Columns]:
    patterns, of_class = np.unique(clips.known_NxC, axis=1, return_inverse=True)
    made = []
    for pattern in range(patterns.shape[1]):
        classes, rows = np.flatnonzero(of_class == pattern), np.flatnonzero(patterns[:, pattern])
        is_NxC = (clips.label_N[rows, None] == classes[None]).astype(float)
        share_C = np.average(is_NxC, axis=0, weights=clips.weight_N[rows])
        inside = [np.searchsorted(rows, np.intersect1d(rows, group)) for group in groups]
        made.append(_Columns(classes, rows, share_C, is_NxC - share_C, [group for group in inside if len(group)]))
    return made


@dataclasses.dataclass(frozen=True)
class _Fit:
    """`dual_NxC` is M y; `block`: places of clips -> their part of M."""

    dual_NxC: np.ndarray
    block: Callable[[np.ndarray], np.ndarray]

    def scores_of_left_out(self, target_NxC: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
        """Scores [clips, classes] of these groups by the fits without them; -inf where nobody else has the class."""
        scores = np.full_like(target_NxC, -np.inf)
        for group in groups:
            if len(group) < len(scores):
                scores[group] = target_NxC[group] - np.linalg.solve(self.block(group), self.dual_NxC[group])
        return scores


def _solved(x_NxD: np.ndarray, part: _Columns, fit: _Fit) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [features, classes] and left-out scores; the fit's matrix is let go before the next one's is made."""
    kernel_DxC = part.of(x_NxD).T @ fit.dual_NxC.astype(x_NxD.dtype)
    return kernel_DxC, fit.scores_of_left_out(part.target_NxC, part.groups)


def _system(x_NxD: np.ndarray, weight_N: np.ndarray) -> Callable[[float, np.ndarray], _Fit]:
    """(ridge, targets) -> the fit; what all ridges share is computed once."""
    if len(x_NxD) <= x_NxD.shape[1]:
        kernel_NxN = (x_NxD @ x_NxD.T).astype(np.float64)
        return lambda ridge, target_NxC: _of_clips(kernel_NxN, ridge / weight_N, target_NxC)
    gram_DxD = np.zeros((x_NxD.shape[1], x_NxD.shape[1]))
    for rows in row_blocks(len(x_NxD)):
        root_NxD = np.sqrt(weight_N[rows])[:, None] * x_NxD[rows]
        gram_DxD += root_NxD.T @ root_NxD
    return lambda ridge, target_NxC: _of_features(x_NxD, gram_DxD, weight_N, ridge, target_NxC)


def _of_clips(kernel_NxN: np.ndarray, penalty_N: np.ndarray, target_NxC: np.ndarray) -> _Fit:
    m_NxN = inverse(kernel_NxN, penalty_N, intercept=False)
    return _Fit(m_NxN @ target_NxC, lambda group: m_NxN[np.ix_(group, group)])


def _of_features(
    x_NxD: np.ndarray, gram_DxD: np.ndarray, weight_N: np.ndarray, ridge: float, target_NxC: np.ndarray
) -> _Fit:
    """The same from inverse(X' W X + ridge), by the matrix inversion lemma: M = (W - W X inverse(...) X' W) / ridge."""
    from scipy.linalg import blas, lapack

    lower_DxD = _factor(gram_DxD, ridge)
    right_DxC = np.zeros((x_NxD.shape[1], target_NxC.shape[1]))
    for rows in row_blocks(len(x_NxD)):
        right_DxC += x_NxD[rows].T.astype(np.float64) @ (weight_N[rows, None] * target_NxC[rows])
    kernel_DxC, _ = lapack.dpotrs(lower_DxD, right_DxC, lower=1)
    residual_NxC = target_NxC.copy()
    for rows in row_blocks(len(x_NxD)):
        residual_NxC[rows] -= x_NxD[rows].astype(np.float64) @ kernel_DxC

    def block(group: np.ndarray) -> np.ndarray:
        own_NxD = weight_N[group, None] * x_NxD[group]
        half_DxN = blas.dtrsm(1.0, lower_DxD, own_NxD.T, lower=1, overwrite_b=1)
        return (np.diag(weight_N[group]) - half_DxN.T @ half_DxN) / ridge

    return _Fit(weight_N[:, None] * residual_NxC / ridge, block)


def groups_of(group_N: np.ndarray) -> list[np.ndarray]:
    """The clips of each group to leave out, or every fifth clip where there is one group alone.

    Of many clips in many groups, groups drawn at random: as many as hold 20,000 clips, and at least 20 of them.
    """
    groups = [np.flatnonzero(group_N == group) for group in np.unique(group_N)]
    if len(groups) < 2:
        return [groups[0][start::_PARTS] for start in range(min(_PARTS, len(groups[0])))]
    order = np.random.default_rng(0).permutation(len(groups))
    enough = 1 + int(np.searchsorted(np.cumsum([len(groups[number]) for number in order]), _CLIPS))
    return [groups[number] for number in sorted(order[: max(enough, _GROUPS)])]


def rated(scores_NxC: np.ndarray, clips: Labelled) -> tuple[float, float, float]:
    """Mean log-likelihood of the labels, the temperature that makes it greatest, and UAR, of left-out scores."""
    temperature, likelihood = _calibrate(scores_NxC, clips)
    scored_N = np.isfinite(scores_NxC[np.arange(len(scores_NxC)), clips.label_N])
    hits, label_N = (scores_NxC.argmax(1) == clips.label_N)[scored_N], clips.label_N[scored_N]
    return likelihood, temperature, float(np.mean([hits[label_N == c].mean() for c in np.unique(label_N)]))


def _calibrate(scores_NxC: np.ndarray, clips: Labelled) -> tuple[float, float]:
    """(factor of the scores, mean log-likelihood) under which the labels are most likely, where they have scores."""
    scored_N = np.isfinite(scores_NxC[np.arange(len(scores_NxC)), clips.label_N])
    scores_NxC, label_N, weight_N = scores_NxC[scored_N], clips.label_N[scored_N], clips.weight_N[scored_N]
    likelihoods = []
    for factor in _TEMPERATURES:
        logits = factor * scores_NxC
        logits -= logits.max(1, keepdims=True)
        log_p = logits[np.arange(len(logits)), label_N] - np.log(np.exp(logits).sum(1))
        likelihoods.append(np.average(log_p, weights=weight_N))
    best = int(np.argmax(likelihoods))
    return float(_TEMPERATURES[best]), float(likelihoods[best])
