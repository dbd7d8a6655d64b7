"""How loud speech is while somebody speaks.

Loudness over a whole recording depends on how long its pauses are. The active speech level of ITU-T Recommendation
P.56, method B, counts only the time in which the envelope is above a threshold, or was within the last 0.2 s; the
threshold is the one that lies 15.9 dB under the level that results.
"""

import numpy as np

from emoflax.features import recursive

SPEECH_DB = -26.0  # active level, dB of full scale, that recordings are brought to: usual in ITU-T's tests of speech
_SMOOTHING_S, _HANGOVER_S, MARGIN_DB = 0.03, 0.2, 15.9
_LOWEST_HZ = 100.0  # hum and rumble under it are not speech; P.56 allows a filter before the meter
THRESHOLDS_DB = np.arange(-100.0, 0.5, 0.5)  # of the envelope's maximum, so that a louder recording gets just its gain
_FLOOR = 1e-30  # of powers; of a wave of zeros


def active_level_db(wave: np.ndarray, sample_rate_hz: int) -> float:
    """Active speech level of float32 [samples], dB of full-scale power; 0.3 ms of processor per second of sound."""
    wave = recursive.run(recursive.high_pass(4, _LOWEST_HZ, sample_rate_hz), wave)
    held = _held_envelope(wave, sample_rate_hz)
    top_db = 20 * np.log10(max(float(held.max()), _FLOOR))
    threshold_db = top_db + THRESHOLDS_DB
    share = np.searchsorted(np.sort(-held), -(10 ** (threshold_db / 20)), side="right") / len(held)
    power_db = 10 * np.log10(max(float(np.square(wave).mean()), _FLOOR))
    level_db = power_db - 10 * np.log10(np.maximum(share, 1 / len(held)))
    above_db = level_db - threshold_db
    place = int(np.argmax(above_db <= MARGIN_DB))  # from the lowest threshold on
    if above_db[place] > MARGIN_DB:  # a click, which is far above its own envelope
        return float(level_db[np.argmin(above_db)])
    around = [place, max(0, place - 1)]
    return float(np.interp(MARGIN_DB, above_db[around], level_db[around]))


def _held_envelope(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Envelope of [samples] every 1 ms, as it moves slowly; at each moment the largest value of the last 0.2 s."""
    every = max(1, min(sample_rate_hz // 1000, len(wave)))
    means = np.abs(wave[: len(wave) // every * every]).reshape(-1, every).mean(1)
    smooth = recursive.smoothing(_keep(sample_rate_hz, every))
    envelope = recursive.run(smooth, recursive.run(smooth, means))
    return _running_max(envelope, 2 * half_hangover(sample_rate_hz, every) + 1)


def _keep(sample_rate_hz: int, every: int) -> float:
    """Of the envelope, from one value to the next, by each of its two filters."""
    return float(np.exp(-every / (_SMOOTHING_S * sample_rate_hz)))


def half_hangover(sample_rate_hz: int, every: int) -> int:
    """Half of the hangover, in values of an envelope of one every `every` samples."""
    return round(_HANGOVER_S * sample_rate_hz / every / 2)


def _running_max(values: np.ndarray, width: int) -> np.ndarray:
    """[n] -> [n]: the largest of the last `width` values, of 0 before the first."""
    largest, covered = np.concatenate([np.zeros(width - 1, values.dtype), values]), 1
    while covered < width:
        step = min(covered, width - covered)
        largest = np.maximum(largest[step:], largest[:-step])
        covered += step
    return largest


def high_pass_response(sample_rate_hz: int) -> np.ndarray:
    """Response of the filter before the meter to one sample, float64, for a quarter of a second."""
    return recursive.response(recursive.high_pass(4, _LOWEST_HZ, sample_rate_hz), sample_rate_hz // 4)


def smoothing_response(sample_rate_hz: int) -> np.ndarray:
    """Response of the envelope's two filters to one value, float64, for two seconds of an envelope of 1 ms."""
    keep, n = _keep(sample_rate_hz, max(1, sample_rate_hz // 1000)), np.arange(2000)
    return (1 - keep) ** 2 * (n + 1) * keep**n
