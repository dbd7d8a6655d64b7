"""openSMILE's standard feature sets, one vector per clip: what others' scores of functionals are measured with.

eGeMAPSv02, 88 functionals: the extended Geneva Minimalistic Acoustic Parameter Set (Eyben et al. 2016, IEEE
Transactions on Affective Computing 7:190-202). ComParE_2016, 6,373 functionals: the set of the INTERSPEECH
Computational Paralinguistics Challenge (Schuller et al. 2016, INTERSPEECH, 2001-2005). Both are computed by openSMILE
(Eyben et al. 2010, ACM Multimedia, 1459-1462), whose licence allows research and no commercial use; it is no part of
this package. About 35 ms for a clip of 2 s, with either set.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from emoflax.errors import UserError, optional

SETS = {"eGeMAPSv02": 88, "ComParE_2016": 6_373}  # number of functionals of each
_LOWEST_RATE_HZ = 16_000  # ComParE_2016 has mel bands up to 8 kHz
_SHORTEST_S = 0.1  # of less than 60 ms openSMILE measures nothing
_FULL_SCALE = 32_768


def check(sample_rate_hz: int, feature_set: str) -> None:
    """Raises NotInstalled without openSMILE, UserError for a sample rate too low for its sets."""
    _extractor(feature_set)
    if sample_rate_hz < _LOWEST_RATE_HZ:
        raise UserError(f"openSMILE's sets need --config.audio.sample_rate_hz of at least {_LOWEST_RATE_HZ}.")


def of_wave(wave: np.ndarray, sample_rate_hz: int, *, feature_set: str, speeds: Iterable[float]) -> np.ndarray:
    """float32 [samples] -> float32 [speeds, functionals], as `functionals.of_wave` returns ours.

    Args:
      feature_set: a key of `SETS`.
      speeds: one row each, see `functionals.of_wave`.

    Raises:
      NotInstalled: openSMILE is not there.
    """
    from emoflax.features.decode import change_speed  # audio libraries come with it; `SETS` is read without them

    return np.stack([_measure(change_speed(wave, speed), sample_rate_hz, feature_set) for speed in speeds])


def names(feature_set: str) -> tuple[str, ...]:
    """openSMILE's name of each functional."""
    return tuple(_extractor(feature_set).feature_names)


def _measure(wave: np.ndarray, sample_rate_hz: int, feature_set: str) -> np.ndarray:
    """float32 [samples], full scale 1.0 -> float32 [functionals].

    openSMILE takes 16 bits, in which what is beyond full scale would change its sign: it is clipped. Silence follows a
    wave that is too short; a functional that has no value is 0, as openSMILE itself sets those of no voiced frame.
    """
    wave = np.clip(wave, -1, 1 - 1 / _FULL_SCALE).astype(np.float32)
    padding = max(0, round(_SHORTEST_S * sample_rate_hz) - len(wave))
    frame = _extractor(feature_set).process_signal(np.pad(wave, (0, padding)), sample_rate_hz)
    return np.nan_to_num(frame.to_numpy(np.float32)[0], nan=0.0, posinf=0.0, neginf=0.0)


@functools.lru_cache(maxsize=len(SETS))
def _extractor(feature_set: str) -> Any:
    """An `opensmile.Smile`; it holds settings alone, and every call starts an openSMILE of its own."""
    with optional(f"config.functionals.feature_set={feature_set!r}", "opensmile"):
        import opensmile
    return opensmile.Smile(opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals)
