"""Whether probabilities mean what they say: temperature, expected calibration error, and a threshold for 'unsure'.

Guo et al. 2017, "On Calibration of Modern Neural Networks": logits divided by one temperature, fitted on clips that the
weights were not trained on, keep every prediction and make confidences fit. Shape letters: N clips, C classes.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emoflax.reporting.pictures import pyplot

_BINS = 15  # of confidence, equally wide, as in Guo et al.
_DRAWS = 200
_COLDEST, _HOTTEST = 0.05, 20.0
_THRESHOLDS = np.linspace(0, 1, 101)


def fitted(log_p_NxC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray | None = None) -> dict[str, Any]:
    """What a checkpoint keeps of clips that its weights were not trained on.

    Args:
      group_N: corpus of each clip; the temperature is then the highest of those of each corpus, so that a model is not
        surer on any of them than it is right. None: that of all clips.

    Returns:
      {'temperature', 'clips': how many there were, 'kept', 'right': lists over thresholds of the confidence after the
      temperature, 0, 0.01, ..., 1: the share of the clips at or above it, and the share of right ones among these}.
    """
    group_N = np.zeros(len(label_N)) if group_N is None else group_N
    temperature = max(fit_temperature(log_p_NxC[group_N == g], label_N[group_N == g]) for g in np.unique(group_N))
    log_p_NxC = tempered(log_p_NxC, temperature)
    kept_TxN = np.exp(log_p_NxC.max(1))[None] >= _THRESHOLDS[:, None] - 1e-9
    right_N = log_p_NxC.argmax(1) == label_N
    right = (kept_TxN & right_N[None]).sum(1) / np.maximum(kept_TxN.sum(1), 1)
    return {
        "temperature": round(temperature, 4),
        "clips": len(label_N),
        "kept": np.round(kept_TxN.mean(1), 4).tolist(),
        "right": np.round(right, 4).tolist(),
    }


def fit_temperature(log_p_NxC: np.ndarray, label_N: np.ndarray) -> float:
    """The temperature under which the labels are likeliest, from 0.05 to 20."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return -float(_of_labels(tempered(log_p_NxC, np.exp(log_temperature)), label_N).mean())

    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def tempered(log_p_NxC: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probabilities at that temperature; above 1 they are less sure."""
    if temperature == 1:
        return log_p_NxC
    scaled_NxC = log_p_NxC / temperature
    return scaled_NxC - np.logaddexp.reduce(scaled_NxC, axis=1, keepdims=True)


def temperature_of(description: Mapping[str, Any]) -> float:
    """Of a checkpoint; 1 where none was fitted, as in older ones."""
    return (description.get("calibration") or {}).get("temperature", 1.0)


def threshold(calibration: Mapping[str, Any] | None, wanted: float) -> float:
    """The lowest confidence from which on at least the share `wanted` of the clips was right.

    0 for `wanted` 0, and where nothing was fitted; above 1 where no confidence is enough, so that all is unsure.
    """
    if not wanted or not calibration:
        return 0.0
    enough = [at for at, right, kept in zip(_THRESHOLDS, calibration["right"], calibration["kept"], strict=True)
              if right >= wanted and kept > 0]  # fmt: skip
    return float(enough[0]) if enough else 1.01


def bins(log_p_NxC: np.ndarray, label_N: np.ndarray) -> dict[str, np.ndarray]:
    """{'clips', 'confidence', 'accuracy'} of each of 15 equal bins of confidence; 0 in empty bins."""
    confidence_N, right_N = np.exp(log_p_NxC.max(1)), log_p_NxC.argmax(1) == label_N
    bin_N = _bin(confidence_N)
    clips = np.bincount(bin_N, minlength=_BINS)
    sums = (np.bincount(bin_N, values, minlength=_BINS) for values in (confidence_N, right_N.astype(float)))
    confidence, accuracy = (total / np.maximum(clips, 1) for total in sums)
    return {"clips": clips, "confidence": confidence, "accuracy": accuracy}


def scores(log_p_NxC: np.ndarray, label_N: np.ndarray) -> dict[str, float]:
    """Expected calibration error and that `by_chance`, negative log-likelihood (nats), Brier score (0 to 2), mean
    confidence, accuracy."""
    filled = bins(log_p_NxC, label_N)
    p_NxC = np.exp(log_p_NxC)
    target_NxC = np.eye(log_p_NxC.shape[1])[label_N]
    return {
        "ece": float(filled["clips"] @ np.abs(filled["confidence"] - filled["accuracy"]) / len(label_N)),
        "ece_by_chance": by_chance(np.exp(log_p_NxC.max(1))),
        "nll": -float(_of_labels(log_p_NxC, label_N).mean()),
        "brier": float(np.square(p_NxC - target_NxC).sum(1).mean()),
        "confidence": float(p_NxC.max(1).mean()),
        "accuracy": float((p_NxC.argmax(1) == label_N).mean()),
    }


def by_chance(confidence_N: np.ndarray) -> float:
    """The expected calibration error that perfect probabilities have on so few clips: a mean over drawn labels.

    It never is 0, because the share of right ones in a bin differs from its expectation: of 240 clips about 0.06.
    """
    right_DxN = np.random.default_rng(0).random((_DRAWS, len(confidence_N))) < confidence_N[None]
    bin_N = _bin(confidence_N)
    gap_DxK = (confidence_N[None] - right_DxN) @ (bin_N[:, None] == np.arange(_BINS)[None])
    return float(np.abs(gap_DxK).sum(1).mean() / len(confidence_N))


def summarise(log_p: Sequence[np.ndarray], label: Sequence[np.ndarray]) -> dict[str, Any]:
    """Mean of the scores over seeds, and the bins of all seeds' predictions together.

    Args:
      log_p, label: of each seed, its test clips.
    """
    of_seeds = [scores(*each) for each in zip(log_p, label, strict=True)]
    together = bins(np.concatenate(log_p), np.concatenate(label))
    return {name: float(np.mean([each[name] for each in of_seeds])) for name in of_seeds[0]} | {
        "bins": {name: values.tolist() for name, values in together.items()}
    }


def sentence(summary: Mapping[str, Any]) -> str:
    """The line of a report."""
    return (
        f"calibration: expected calibration error {summary['ece']:.3f} (mean confidence {summary['confidence']:.2f}, "
        f"right in {summary['accuracy']:.2f}; by chance perfect probabilities of so many clips have "
        f"{summary['ece_by_chance']:.3f}), negative log-likelihood {summary['nll']:.2f} nats, Brier score "
        f"{summary['brier']:.2f}; reliability.png"
    )


def draw(path: pathlib.Path, title: str, summary: Mapping[str, Any]) -> None:
    """The reliability diagram: how often predictions of each confidence are right."""
    plt, filled = pyplot(), {name: np.array(values) for name, values in summary["bins"].items()}
    there = filled["clips"] > 0
    figure, axes = plt.subplots(figsize=(4.6, 4.6), layout="constrained")
    centres = (np.arange(_BINS) + 0.5) / _BINS
    axes.bar(centres, filled["clips"] / filled["clips"].sum(), 1 / _BINS, color="0.85", label="share of the clips")
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--")
    axes.plot(filled["confidence"][there], filled["accuracy"][there], marker="o", color="C0", label="right")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share", title=title)
    axes.set_title(f"{title}\nexpected calibration error {summary['ece']:.3f}", size=10)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bin(confidence_N: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(confidence_N * _BINS).astype(int) - 1, 0, _BINS - 1)


def _of_labels(log_p_NxC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    return log_p_NxC[np.arange(len(label_N)), label_N]
