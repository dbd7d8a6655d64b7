"""Waveform -> one vector per clip: statistics over time of prosody, spectrum and voice quality.

Each contour of `descriptors.py` is described by its distribution, its course from beginning to end, and its peaks; a
few numbers for rhythm and modulation are added. Nothing is learned, and no other clip has an influence. About 35 ms for
a clip of 2 s.
"""

from collections.abc import Iterable

import numpy as np
import scipy.fft

from emoflax.errors import UserError
from emoflax.features.decode import change_speed
from emoflax.features.descriptors import HOP_S, MELS, Contours, describe
from emoflax.features.kernels import MEL, kernel_statistics
from emoflax.features.recording import Recording, read

_LOWEST_RATE_HZ = 8_000
_PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
_LEVELS = (0.25, 0.5, 0.75, 0.9)  # of the way from the 1st to the 99th percentile
_COSINES, _PARTS = (3, 4, 5, 6), 6
_SMOOTHING = np.hanning(9)[1:-1] / np.hanning(9).sum()  # 70 ms
_MODULATION_HZ = (0.5, 1, 2, 4, 8, 16, 32)
_BANDS = ((0, 4), (4, 9), (9, 14), (14, 20), (20, MELS))  # of mel bands, whose modulation is measured
_DEPTHS_DB = (6, 10, 15, 20, 30)
_FEW = 4  # with fewer voiced frames, all frames are used instead


def check(sample_rate_hz: int, statistics: bool, kernels: int) -> None:
    """Raises UserError for a sample rate too low for these measurements, and for settings without any functional."""
    if kernels < 0 or not (statistics or kernels):
        raise UserError("--config.functionals.kernels must be 0 or more, and not 0 without functionals.statistics.")
    lowest_hz = _LOWEST_RATE_HZ if not kernels else 2 * round(MEL["fmax_hz"])
    if sample_rate_hz < lowest_hz:
        raise UserError(f"These functionals need --config.audio.sample_rate_hz of at least {lowest_hz}.")


def of_recording(
    path: str,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    sample_rate_hz: int,
    trim_db: float,
    level: str,
    **wanted,
) -> tuple[np.ndarray, Recording]:
    """Functionals of a recording, or of a part of it, as `of_wave` returns them; the recording.

    Args:
      wanted: the fields of config.functionals.

    Raises:
      UserError: the recording cannot be used.
    """
    one = read(path, start_s, end_s, sample_rate_hz=sample_rate_hz, trim_db=trim_db, level=level)
    return of_wave(one.wave, sample_rate_hz, **wanted), one


def of_wave(
    wave: np.ndarray, sample_rate_hz: int, *, statistics: bool, kernels: int, speeds: Iterable[float]
) -> np.ndarray:
    """float32 [samples] -> float32 [speeds, functionals].

    Args:
      statistics, kernels: see `functionals`.
      speeds: one row each: the wave resampled to play this many times as fast, with higher pitch and formants.
    """
    rows = [functionals(change_speed(wave, speed), sample_rate_hz, statistics, kernels)[0] for speed in speeds]
    return np.stack(rows)


def functionals(
    wave: np.ndarray, sample_rate_hz: int, statistics: bool = True, kernels: int = 0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """float32 [samples], full scale 1.0 -> float32 [functionals] and the name of each, `contour.statistic`.

    Args:
      statistics: whether statistics of the contours are among them.
      kernels: number of random convolutions whose statistics are.
    """
    contours = describe(wave, sample_rate_hz)
    values = {}
    if statistics:
        values |= _of_contours(contours) | _rhythm(contours) | _modulation(contours)
    if kernels:
        values |= kernel_statistics(wave, sample_rate_hz, contours, kernels)
    return np.fromiter(values.values(), np.float32, len(values)), tuple(values)


def _of_contours(contours: Contours) -> dict[str, float]:
    """Statistics of every contour over all frames, and over voiced frames, and of the steps between voiced frames."""
    always, voice = contours.always, contours.voice
    times = np.flatnonzero(contours.voiced)
    if len(times) < _FEW:
        times = np.arange(len(contours.voiced))
    x_TxL = np.stack(list(always.values()), 1)
    voice_TxL = np.stack(list(voice.values()), 1)[times]
    step_TxL = np.diff(voice_TxL, axis=0)[np.diff(times) == 1]
    if not len(step_TxL):
        step_TxL = np.zeros((1, len(voice)))
    values = _named(always, "", _spread(x_TxL) | _course(x_TxL, np.arange(len(x_TxL))) | _peaks(x_TxL))
    values |= _named(always, "@voiced", _spread(x_TxL[times]))
    values |= _named(voice, "@voiced", _spread(voice_TxL) | _course(voice_TxL, times))
    return values | _named(voice, "@step", _spread(step_TxL))  # jitter and shimmer from one frame to the next


def _named(contours: Iterable[str], suffix: str, statistics: dict[str, np.ndarray]) -> dict[str, float]:
    return {
        f"{contour}{suffix}.{name}": float(value)
        for name, row in statistics.items()
        for contour, value in zip(contours, row, strict=True)
    }


def _spread(x_TxL: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics that do not depend on the order of frames."""
    mean, std = x_TxL.mean(0), x_TxL.std(0)
    z_TxL = (x_TxL - mean) / (std + 1e-6)
    p = dict(zip(_PERCENTILES, np.percentile(x_TxL, _PERCENTILES, axis=0), strict=True))
    square = z_TxL * z_TxL  # ** 3 and ** 4 take ten times as long
    values = {"mean": mean, "std": std, "skew": (square * z_TxL).mean(0), "kurtosis": np.log((square**2).mean(0) + 1)}
    values |= {"magnitude": np.abs(x_TxL).mean(0)} | {f"p{share}": value for share, value in p.items()}
    return values | {"range": p[99] - p[1], "iqr": p[75] - p[25], "upper": p[75] - p[50], "lower": p[50] - p[25]}


def _course(x_TxL: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
    """How a contour runs from beginning to end: line, parabola, cosines, means of six parts, places of extremes."""
    frames = len(x_TxL)
    u = (times - times.mean()) / max(1.0, np.ptp(times) / 2)
    basis = np.stack([np.ones_like(u), u, u**2 - (u**2).mean()], 1)
    weight, *_ = np.linalg.lstsq(basis, x_TxL, rcond=None)
    centred = x_TxL - x_TxL.mean(0)
    values = {
        "slope": weight[1],
        "slope_per_s": weight[1] / max(HOP_S, np.ptp(times) * HOP_S),
        "curve": weight[2],
        "line_error": np.abs(centred - np.outer(u, weight[1])).mean(0),
        "parabola_error": np.abs(x_TxL - basis @ weight).mean(0),
        "where_max": x_TxL.argmax(0) / frames,
        "where_min": x_TxL.argmin(0) / frames,
    }
    phase = np.pi * (np.arange(frames) + 0.5) / frames
    values |= {f"cosine{k}": np.cos(k * phase) @ centred / frames for k in _COSINES}
    edges = np.linspace(0, frames, _PARTS + 1).round().astype(int)
    for part, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        start = min(start, frames - 1)
        values[f"part{part}"] = x_TxL[start : max(stop, start + 1)].mean(0)
    return values


def _peaks(x_TxL: np.ndarray) -> dict[str, np.ndarray]:
    """Share of time above levels; of the smoothed contour, rate and heights of local maxima, and rises and falls."""
    frames = len(x_TxL)
    low, high = np.percentile(x_TxL, (1, 99), axis=0)
    values = {f"above{share * 100:.0f}": (x_TxL > low + share * (high - low)).mean(0) for share in _LEVELS}
    padded = np.pad(x_TxL, ((3, 3), (0, 0)), mode="edge")
    smooth = sum(weight * padded[i : i + frames] for i, weight in enumerate(_SMOOTHING))
    centred, step = smooth - smooth.mean(0), np.diff(smooth, axis=0)
    top = (centred[1:-1] > centred[:-2]) & (centred[1:-1] >= centred[2:]) & (centred[1:-1] > 0)
    count = np.maximum(top.sum(0), 1)
    height = np.where(top, centred[1:-1], 0).sum(0) / count
    variance = np.where(top, (centred[1:-1] - height) ** 2, 0).sum(0) / count
    rising, falling = step > 0, step < 0
    return values | {
        "peaks_per_s": top.sum(0) / (frames * HOP_S),
        "peak_height": height,
        "peak_spread": np.sqrt(variance),
        "rise": np.where(rising, step, 0).sum(0) / np.maximum(rising.sum(0), 1),
        "fall": np.where(falling, step, 0).sum(0) / np.maximum(falling.sum(0), 1),
        "rising": rising.sum(0) / max(1, len(rising)),
    }


def _rhythm(contours: Contours) -> dict[str, float]:
    """Durations of the clip and of its voiced and unvoiced stretches; share of the time near full level."""
    voiced, level = contours.voiced, contours.always["energy_db"]
    seconds = len(voiced) * HOP_S
    change = np.flatnonzero(np.diff(np.concatenate([[0], voiced, [0]])))
    begin, end = change[::2], change[1::2]
    values = {"log_duration": np.log(seconds), "voiced_share": voiced.mean(), "stretches_per_s": len(begin) / seconds}
    for name, lengths in (("voiced", end - begin), ("unvoiced", begin[1:] - end[:-1])):
        length_s = lengths * HOP_S if len(lengths) else np.zeros(1)
        for statistic in (np.mean, np.std, np.max, np.median):
            values[f"{name}_{statistic.__name__}_s"] = statistic(length_s)
    return values | {f"within_{depth}_db": (level > level.max() - depth).mean() for depth in _DEPTHS_DB}


def _modulation(contours: Contours) -> dict[str, float]:
    """Share of slow and of fast changes in loudness, level and five bands, natural logarithm."""
    always = contours.always
    mel_TxM = np.stack([always[f"mel_{i}"] for i in range(MELS)], 1)
    lines = {"loudness": always["loudness"], "energy": always["energy_db"]}
    lines |= {f"band{i}": mel_TxM[:, low:high].mean(1) for i, (low, high) in enumerate(_BANDS)}
    x_TxL = np.stack(list(lines.values()), 1)
    x_TxL = (x_TxL - x_TxL.mean(0)) * np.hanning(len(x_TxL))[:, None]
    power = np.abs(scipy.fft.rfft(x_TxL, max(1024, len(x_TxL)), axis=0)) ** 2  # zero-padded to 10 s
    hz = np.linspace(0, 0.5 / HOP_S, len(power))
    values = {}
    for low, high in zip(_MODULATION_HZ[:-1], _MODULATION_HZ[1:], strict=True):
        share = power[(hz >= low) & (hz < high)].sum(0) / (power.sum(0) + 1e-9)
        values |= {f"{line}.{low:g}hz": value for line, value in zip(lines, np.log(share + 1e-4), strict=True)}
    return values
