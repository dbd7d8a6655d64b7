"""How a recording was made: level, bandwidth, length, noise. Models are told nothing of it; people are.

Measured of every training clip and of every recording that is predicted: what lies outside of what a model was trained
on gets a notice.
"""

import functools

import numpy as np

from emoflax.audio.channels import CONDITIONS
from emoflax.features.level import active_level_db
from emoflax.features.spectrum import padded_to

_WINDOW_S, _LOWEST_SNR_DB, _HIGHEST_SNR_DB = 0.02, -10.0, 80.0
_BAND_DB = 60.0  # the highest frequency that comes within so much of the strongest one bounds the bandwidth
_LOUD, _QUIET = 95, 10  # percentiles of frames: of the spectrum that counts, and of the background's power
_ENOUGH = 75  # frames, evenly spread, that tell a bandwidth; up to twice as many are looked at
_FLOOR = 1e-20


def measure(wave: np.ndarray, sample_rate_hz: int, duration_s: float) -> dict[str, float]:
    """Of float32 [samples] before level and ends were changed; about 0.5 ms of processor per second of sound.

    Returns:
      'level_db', active speech level in dB of full scale; 'bandwidth_hz', at most half the sample rate; 'duration_s',
      as given; 'snr_db', active level over that of the quietest tenth of the frames, -10 to 80.
    """
    level_db = active_level_db(wave, sample_rate_hz)
    width = max(2, round(_WINDOW_S * sample_rate_hz))
    padded = padded_to(wave, width)
    frames = padded[: len(padded) // width * width].reshape(-1, width)
    power_T = np.square(frames).mean(1)
    sounding = power_T > _FLOOR  # digital silence was added by a program; no recording has it as background
    quiet = float(np.percentile(power_T[sounding], _QUIET)) if sounding.any() else _FLOOR
    snr_db = float(np.clip(level_db - 10 * np.log10(max(quiet, _FLOOR)), _LOWEST_SNR_DB, _HIGHEST_SNR_DB))
    values = (level_db, _bandwidth_hz(frames, sample_rate_hz), duration_s, snr_db)
    return dict(zip(CONDITIONS, map(float, values), strict=True))


def _bandwidth_hz(frames: np.ndarray, sample_rate_hz: int) -> float:
    frames = frames[:: max(1, len(frames) // _ENOUGH)]
    spectrum_TxK = np.fft.rfft(frames * _window(frames.shape[1]))
    spectrum_TxK = spectrum_TxK.real**2 + spectrum_TxK.imag**2
    sorted_TxK, place = np.sort(spectrum_TxK, axis=0), _LOUD / 100 * (len(frames) - 1)
    below_K, above_K = sorted_TxK[int(place)], sorted_TxK[int(np.ceil(place))]
    loud_K = below_K + (place % 1) * (above_K - below_K)  # np.percentile, in a quarter of its time
    highest = int(np.flatnonzero(loud_K >= loud_K.max() * 10 ** (-_BAND_DB / 10))[-1])
    return highest * sample_rate_hz / frames.shape[1]


_window = functools.lru_cache(maxsize=4)(np.hanning)
