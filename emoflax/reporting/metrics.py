"""Scores as functions of confusion matrices, and their intervals.

A confusion matrix counts clips, [..., true class, predicted class]; matrices of disjoint clips add up, so every
score of any union of speakers, folds or resamples is computed from sums, and every clip counts exactly once.
"""

import warnings
from typing import Any

import numpy as np

METRICS = ("uar", "accuracy", "macro_f1", "weighted_f1")
RESAMPLES = 2_000


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts [classes, classes] of int arrays [clips], true class first."""
    counts: np.ndarray = np.bincount(label * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes)


def recall(matrix: np.ndarray) -> np.ndarray:
    """[..., classes]; nan for a class without clips."""
    support = matrix.sum(-1)
    hits, share = np.diagonal(matrix, axis1=-2, axis2=-1), np.full(support.shape, np.nan)
    np.divide(hits, support, out=share, where=support > 0)
    return share


def shares(matrix: np.ndarray) -> np.ndarray:
    """[..., true class, predicted class] as shares of the true class's clips; nan for a class without clips."""
    support = matrix.sum(-1, keepdims=True)
    share = np.full(matrix.shape, np.nan)
    np.divide(matrix, support, out=share, where=support > 0)
    return share


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """UAR (mean recall over the classes that have clips), accuracy, macro-F1 and weighted F1; each [...]."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    support, guesses = matrix.sum(-1), matrix.sum(-2)
    total = np.maximum(support.sum(-1), 1)
    f1 = 2 * hits / np.maximum(support + guesses, 1)
    present = support > 0
    classes = np.maximum(present.sum(-1), 1)
    return {
        "uar": np.nan_to_num(recall(matrix)).sum(-1) / classes,
        "accuracy": hits.sum(-1) / total,
        "macro_f1": (f1 * present).sum(-1) / classes,
        "weighted_f1": (f1 * support).sum(-1) / total,
    }


def speaker_confusions(label: np.ndarray, predicted: np.ndarray, speaker: np.ndarray, classes: int) -> np.ndarray:
    """One confusion matrix per speaker, [speakers, classes, classes], speakers sorted."""
    return np.stack([confusion(label[speaker == s], predicted[speaker == s], classes) for s in np.unique(speaker)])


def bootstrap(matrices: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Resamples speakers with replacement, not clips: those of one speaker are not independent of each other.

    Args:
      matrices: [seeds, speakers, classes, classes]; the same speakers are drawn for every seed.

    Returns:
      [resamples, seeds, classes, classes], or None for a single speaker, who gives no interval.
    """
    speakers = matrices.shape[1]
    if speakers < 2:
        return None
    draws = np.random.default_rng(seed).multinomial(speakers, np.full(speakers, 1 / speakers), size=RESAMPLES)
    resampled: np.ndarray = np.einsum("rs,nsij->rnij", draws, matrices)
    return resampled


def summarise(matrices: np.ndarray) -> dict[str, dict[str, Any]]:
    """Mean over seeds of every score, with its 95 % speaker-level bootstrap interval and its spread over seeds.

    Args:
      matrices: [seeds, speakers, classes, classes].

    Returns:
      {'uar': {'mean', 'low', 'high', 'seeds': [...]}, ..., 'recall': {'mean': [classes], 'low', 'high'},
      'confusion': {'mean': [true, predicted], 'low', 'high'} as shares of the true class's clips};
      low and high are None where there is one speaker only, and everything is None for a class without clips.
    """
    pooled = matrices.sum(1)
    resampled = bootstrap(matrices)
    summary: dict[str, dict[str, Any]] = {}
    of_resamples = scores(resampled) if resampled is not None else None
    for name, values in scores(pooled).items():
        low, high = map(float, intervals(of_resamples[name].mean(-1))) if of_resamples else (None, None)
        summary[name] = {"mean": float(values.mean()), "low": low, "high": high, "seeds": values.tolist()}
    for name, shares_of in (("recall", recall), ("confusion", shares)):
        mean = shares_of(pooled).mean(0)
        none = mean * np.nan
        bounds = intervals(shares_of(resampled).mean(1)) if resampled is not None else (none, none)
        named = zip(("mean", "low", "high"), (mean, *bounds), strict=True)
        summary[name] = {key: _without_nan(value) for key, value in named}
    return summary


def intervals(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals of [resamples, ...]; nan where a class has no clips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of all-nan slices, which are meant
        low, high = np.nanpercentile(resampled, [2.5, 97.5], axis=0)
    return low, high


def count_seeds(count: int) -> str:
    """'1 seed', '3 seeds': of one there is no spread to report."""
    return f"{count} seed" + ("s" if count > 1 else "")


def _without_nan(values: np.ndarray) -> list[Any]:
    """Nested lists in which nan, which JSON does not have, is None."""
    written = values.astype(object)
    written[np.isnan(values)] = None
    nested: list[Any] = written.tolist()
    return nested
