"""A recording as overlapping windows: where they lie, which of them hold speech, and smoothing over time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from emoflax.errors import UserError

_FRAME_S = 0.02
_BELOW_LOUDEST_DB = 40.0  # a frame this far under the recording's loud ones holds no sound ...
_LOWEST_DB = -90.0  # ... nor does one this far under full scale
_LOUD_SHARE = 0.95  # quantile of the frames' levels that stands for the loud ones: one click does not
_LEAST_SHARE = 0.1  # of a window's frames; with fewer that hold sound, it is silent; with fewer that are speech, none


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a recording is cut.

    Attributes:
      window_s: length of each window; 0: the recording as a whole.
      hop_s: from the beginning of one window to that of the next; 0: windows do not overlap.
      smooth_s: log-probabilities are averaged over the windows whose middles are within half of this; 0: they are not.
      vad: whether it is measured which share of each part is speech, and what is none is marked; needs the extra `vad`.
    """

    window_s: float = 0.0
    hop_s: float = 0.0
    smooth_s: float = 0.0
    vad: bool = False

    def __post_init__(self) -> None:
        for name, least in (("window_s", 0.1), ("hop_s", 0.01), ("smooth_s", 0.0)):
            value = getattr(self, name)
            if not (value == 0 or (np.isfinite(value) and value >= least)):
                raise UserError(f"{name}={value:g} must be 0 (off) or at least {least:g} s")
        if not self.window_s and (self.hop_s or self.smooth_s):
            raise UserError("hop_s and smooth_s are of windows: give window_s, too, such as window_s=3")
        if self.hop_s > self.window_s:
            raise UserError(
                f"hop_s={self.hop_s:g} leaves out sound between windows of window_s={self.window_s:g}; at most that"
            )

    @property
    def step_s(self) -> float:
        return self.hop_s or self.window_s

    def spans(self, samples: int, rate_hz: int) -> list[tuple[int, int]]:
        """First sample and the one after the last of every window; the last window ends where the recording does."""
        width, hop = (max(1, round(seconds * rate_hz)) for seconds in (self.window_s, self.step_s))
        if not self.window_s or samples <= width:
            return [(0, samples)]
        starts = list(range(0, samples - width + 1, hop))
        if starts[-1] + width < samples:
            starts.append(samples - width)
        return [(start, start + width) for start in starts]


WHOLE = Windows()


@dataclasses.dataclass(frozen=True)
class Activity:
    """What a part of a recording holds.

    Attributes:
      silent: next to no sound.
      speech: the share of it that is speech; None where that was not measured.
    """

    silent: bool = False
    speech: float | None = None

    @property
    def is_speech(self) -> bool:
        """Whether there is anything to predict."""
        return not self.silent and (self.speech is None or self.speech >= _LEAST_SHARE)


def activities(
    samples: npt.NDArray[Any], rate_hz: int, spans: Sequence[tuple[int, int]], cut: Windows
) -> list[Activity]:
    """Of each part of float32 [samples]; a recording that is not cut is never silent by its own level."""
    silent = [False] * len(spans)
    speech: Sequence[float | None] = [None] * len(spans)
    if cut.window_s and len(samples):
        loudest_db = loud_db(levels_db(samples, rate_hz))
        silent = [is_silent(levels_db(samples[slice(*span)], rate_hz), loudest_db) for span in spans]
    if cut.vad and len(samples):
        from emoflax.features import voice_activity

        speech = voice_activity.shares(samples, rate_hz, spans)
    return [Activity(*both) for both in zip(silent, speech, strict=True)]


def levels_db(samples: npt.NDArray[Any], rate_hz: int) -> npt.NDArray[Any]:
    """RMS of every 20 ms of float32 [samples], in dB of full scale; the last frame may be shorter."""
    edges = np.arange(0, len(samples), max(1, round(_FRAME_S * rate_hz)))
    power = np.add.reduceat(np.square(samples, dtype=np.float64), edges) / np.diff(edges, append=len(samples))
    return 10 * np.log10(np.maximum(power, 1e-20))


def loud_db(levels: npt.NDArray[Any]) -> float:
    """The level of a recording's loud frames."""
    return float(np.quantile(levels, _LOUD_SHARE))


def is_silent(levels: npt.NDArray[Any], loudest_db: float) -> bool:
    """Whether a window of these levels holds next to no sound; what the sound is, is not looked at."""
    return float(np.mean(levels > max(loudest_db - _BELOW_LOUDEST_DB, _LOWEST_DB))) < _LEAST_SHARE


def smoothed(log_p: npt.NDArray[Any], middle_s: npt.NDArray[Any], smooth_s: float) -> npt.NDArray[Any]:
    """Log-probabilities [windows, classes], each averaged with those around it and normalised.

    Args:
      middle_s: of every window, rising.
      smooth_s: see `Windows`.
    """
    near = np.abs(middle_s[:, None] - middle_s[None]) <= smooth_s / 2 + 1e-9
    mean = near @ log_p / near.sum(1, keepdims=True)
    normalised: npt.NDArray[Any] = mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
    return normalised
