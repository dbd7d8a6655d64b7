"""Waveform -> contours: energy, spectrum, pitch, voice quality and formants every 10 ms. About 20 ms for a clip of 2 s.

The set follows Eyben et al. 2016, "The Geneva Minimalistic Acoustic Parameter Set", and Schuller et al. 2013,
"The INTERSPEECH 2013 Computational Paralinguistics Challenge". Shape letters: T frames, K frequency bins, M mel bands,
L lags, C pitch candidates.
"""

import dataclasses
import functools

import numpy as np
import scipy.fft

from emoflax.audio.channels import FRAME_MS
from emoflax.features.spectrum import hann

HOP_S = FRAME_MS / 1000
_SPECTRUM_S, _PITCH_S = 0.025, 0.060  # the longer window holds three periods of the lowest voice
_F0_HZ = (60.0, 700.0)
_CANDIDATES = 6  # pitch candidates of a frame
_OCTAVE_COST, _JUMP_COST, _VOICING_COST, _VOICED = 0.02, 0.35, 0.14, 0.45  # Boersma 1993, section 5
_FORMANT_HZ, _LPC_ORDER = 5_500.0, 11
_FLOOR = 1e-10  # of powers: 100 dB below full scale
_ROLLOFFS = (0.25, 0.5, 0.75, 0.9)
MELS, _CEPSTRA = 26, 15


@dataclasses.dataclass(frozen=True)
class Contours:
    """`always`: float64 [frames] by name, defined in every frame; `voice`: those defined in voiced frames only;
    `voiced`: bool [frames]."""

    always: dict[str, np.ndarray]
    voice: dict[str, np.ndarray]
    voiced: np.ndarray


def describe(wave: np.ndarray, sample_rate_hz: int) -> Contours:
    """Contours of float32 [samples], full scale 1.0; 1 + samples // hop frames."""
    wave = np.asarray(wave, np.float64)
    power_TxK = _power(_frames(wave, _SPECTRUM_S, sample_rate_hz))
    frequency_K = np.linspace(0, sample_rate_hz / 2, power_TxK.shape[1])
    mel_TxM = power_TxK @ _mel_filters(sample_rate_hz, power_TxK.shape[1])
    always = _energy(_frames(wave, _SPECTRUM_S, sample_rate_hz), power_TxK, mel_TxM)
    always |= _shape(power_TxK, frequency_K) | _bands(mel_TxM)
    f0, periodicity, spectrum_db = _pitch(wave, sample_rate_hz)
    always |= periodicity
    voiced = f0 > 0
    f0 = np.where(voiced, f0, 100.0)
    formants = _formants(power_TxK, frequency_K, voiced)
    harmonicity = always["harmonicity"]
    voice = {"semitones": 12 * np.log2(f0 / 27.5), "hnr": 10 * np.log10(harmonicity / (1 - harmonicity))}
    voice |= _harmonics(spectrum_db, f0, sample_rate_hz, formants) | formants
    return Contours(always, voice, voiced)


def _frames(wave: np.ndarray, window_s: float, sample_rate_hz: int) -> np.ndarray:
    """[1 + samples // hop, window], each frame centred on its place, zeros beyond the ends."""
    width, hop = round(window_s * sample_rate_hz), round(HOP_S * sample_rate_hz)
    padded = np.pad(wave, (width // 2, width))
    return np.lib.stride_tricks.sliding_window_view(padded, width)[: len(wave) + 1 : hop]


def _power(frames: np.ndarray) -> np.ndarray:
    """Power spectrum [frames, bins], scaled so that a full-scale sine gives about 1 in its bin."""
    width = frames.shape[1]
    window = hann(width)
    spectrum = scipy.fft.rfft(frames * window, 1 << (width - 1).bit_length(), axis=1)
    return _squared(spectrum) / (window.sum() / 2) ** 2


def _squared(spectrum: np.ndarray) -> np.ndarray:
    """np.abs(spectrum) ** 2 without its square root."""
    return spectrum.real**2 + spectrum.imag**2


@functools.lru_cache(maxsize=4)
def _mel_filters(sample_rate_hz: int, bins: int) -> np.ndarray:
    """Triangles [bins, mels] of height 1, evenly spaced on the mel scale from 20 Hz to 8 kHz."""
    top = min(8_000.0, sample_rate_hz / 2)
    mel = np.linspace(*(2595 * np.log10(1 + np.array([20.0, top]) / 700)), MELS + 2)
    edge = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.linspace(0, sample_rate_hz / 2, bins)[:, None]
    rise = (frequency - edge[:-2]) / (edge[1:-1] - edge[:-2])
    fall = (edge[2:] - frequency) / (edge[2:] - edge[1:-1])
    return np.maximum(0, np.minimum(rise, fall))


def _db(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, _FLOOR))


def _energy(frames: np.ndarray, power_TxK: np.ndarray, mel_TxM: np.ndarray) -> dict[str, np.ndarray]:
    """Level, loudness (Stevens' power law per band), sign changes, and how fast the spectrum's shape changes."""
    sign = frames >= 0
    shape = np.sqrt(mel_TxM / (mel_TxM.sum(1, keepdims=True) + 1e-8))
    return {
        "energy_db": _db(power_TxK.sum(1)),
        "loudness": (mel_TxM**0.3).sum(1),
        "zero_crossings": (sign[:, 1:] != sign[:, :-1]).mean(1),
        "flux": np.linalg.norm(np.diff(shape, axis=0, prepend=shape[:1]), axis=1),
    }


def _shape(power_TxK: np.ndarray, frequency_K: np.ndarray) -> dict[str, np.ndarray]:
    """Moments, edges, slopes and balances of the spectrum."""
    share = power_TxK + _FLOOR
    share = share / share.sum(1, keepdims=True)
    centroid = share @ frequency_K
    offset = frequency_K - centroid[:, None]
    square = offset * offset
    width = np.sqrt((share * square).sum(1)) + 1.0
    cumulative = np.cumsum(share, axis=1)
    db = _db(power_TxK)
    values = {
        "centroid": np.log2(centroid + 50),
        "bandwidth": np.log2(width),
        "spectral_skew": (share * square * offset).sum(1) / width**3,
        "spectral_kurtosis": np.log((share * square * square).sum(1) / width**4 + 1),
        "entropy": -(share * np.log2(share)).sum(1),
        "flatness": db.mean(1) - _db(power_TxK.mean(1)),
        "alpha_ratio": _balance(power_TxK, frequency_K, (50, 1000), (1000, 5000)),
        "hammarberg": _peak(db, frequency_K, 0, 2000) - _peak(db, frequency_K, 2000, 5000),
        "low_share": _balance(power_TxK, frequency_K, (0, 250), (250, 8000)),
        "high_share": _balance(power_TxK, frequency_K, (0, 4000), (4000, 8000)),
        "mid_share": _balance(power_TxK, frequency_K, (250, 650), (650, 4000)),
        "slope_0_500": _slope(db, frequency_K, 0, 500),
        "slope_500_1500": _slope(db, frequency_K, 500, 1500),
        "slope_0_5000": _slope(db, frequency_K, 0, 5000),
    }
    for part in _ROLLOFFS:
        values[f"rolloff_{part * 100:.0f}"] = np.log2(frequency_K[(cumulative < part).sum(1)] + 50)
    return values


def _between(frequency_K: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    return (frequency_K >= low_hz) & (frequency_K < high_hz)


def _balance(power_TxK, frequency_K, low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    """Level of the higher band relative to the lower one, dB."""
    above, below = (power_TxK[:, _between(frequency_K, *band)].sum(1) for band in (high, low))
    return _db(above) - _db(below)


def _peak(db_TxK, frequency_K, low_hz: float, high_hz: float) -> np.ndarray:
    return db_TxK[:, _between(frequency_K, low_hz, high_hz)].max(1)


def _slope(db_TxK, frequency_K, low_hz: float, high_hz: float) -> np.ndarray:
    """Regression of level on frequency, dB per kHz."""
    band = _between(frequency_K, low_hz, high_hz)
    khz = frequency_K[band] / 1000
    khz = khz - khz.mean()
    return db_TxK[:, band] @ khz / (khz**2).sum()


def _bands(mel_TxM: np.ndarray) -> dict[str, np.ndarray]:
    mel_db = _db(mel_TxM)
    cepstra = scipy.fft.dct(mel_db, norm="ortho", axis=1)[:, :_CEPSTRA]
    return {f"mel_{i}": mel_db[:, i] for i in range(MELS)} | {f"mfcc_{i}": cepstra[:, i] for i in range(_CEPSTRA)}


def _pitch(wave: np.ndarray, sample_rate_hz: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Pitch in Hz [frames], 0 where unvoiced; how periodic the sound is; its narrow-band spectrum in dB.

    Autocorrelation of the windowed frame over that of the window, then the best path (Boersma 1993).
    """
    frames = _frames(wave, _PITCH_S, sample_rate_hz)
    frames = frames - frames.mean(1, keepdims=True)
    width = frames.shape[1]
    size = scipy.fft.next_fast_len(2 * width, real=True)
    window = hann(width)
    power = _squared(scipy.fft.rfft(frames * window, size, axis=1))
    own = scipy.fft.irfft(_squared(scipy.fft.rfft(window, size)), size)
    lags = np.arange(int(sample_rate_hz / _F0_HZ[1]), int(sample_rate_hz / _F0_HZ[0]) + 2)
    acf = scipy.fft.irfft(power, size, axis=1)
    r = acf[:, lags] / (acf[:, :1] + 1e-6 * width) / (own[lags] / own[0])
    lag, strength = _peaks(r, lags)
    level = np.abs(frames).max(1) / (np.abs(wave).max() + _FLOOR)
    f0, chosen = _path(sample_rate_hz / lag, strength, level)
    spectrum = power / (window.sum() / 2) ** 2 + _FLOOR
    cepstrum = scipy.fft.irfft(np.log(spectrum), size, axis=1)[:, lags]
    periodicity = {
        "harmonicity": np.clip(np.where(f0 > 0, chosen, strength.max(1)), 1e-3, 1 - 1e-3),
        "cpp": cepstrum.max(1) - np.abs(cepstrum).mean(1),  # cepstral peak prominence
    }
    return f0, periodicity, 10 * np.log10(spectrum)


def _peaks(r_TxL: np.ndarray, lags_L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lags and heights [frames, candidates] of the highest local maxima, refined by parabolas."""
    before, here, after = r_TxL[:, :-2], r_TxL[:, 1:-1], r_TxL[:, 2:]
    height = np.where((here > before) & (here >= after), here, -1.0)
    place = np.argpartition(-height, _CANDIDATES, axis=1)[:, :_CANDIDATES]
    y0, y1, y2, chosen = (np.take_along_axis(a, place, 1) for a in (before, here, after, height))
    bend = np.where(chosen > 0, y0 - 2 * y1 + y2, -1.0)
    shift = np.where(chosen > 0, np.clip((y0 - y2) / (2 * np.minimum(bend, -1e-9)), -0.5, 0.5), 0.0)
    return lags_L[place + 1] + shift, np.clip(np.where(chosen > 0, y1 - (y0 - y2) * shift / 4, 0.0), 0, 1)


def _path(hz_TxC: np.ndarray, strength_TxC: np.ndarray, level_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best path through the candidates and 'unvoiced'; returns Hz (0: unvoiced) and the strength of what was chosen."""
    octaves = np.log2(hz_TxC / _F0_HZ[0])
    unvoiced = _VOICED + np.maximum(0, 2 - level_T / 0.03 * (1 + _VOICED))
    score = np.concatenate([unvoiced[:, None], strength_TxC + _OCTAVE_COST * octaves], axis=1)
    jump = np.full((len(score) - 1, score.shape[1], score.shape[1]), _VOICING_COST)
    jump[:, 0, 0] = 0
    jump[:, 1:, 1:] = _JUMP_COST * np.abs(octaves[1:, None, :] - octaves[:-1, :, None])
    total, back = score[0], np.zeros(score.shape, int)
    for t in range(1, len(score)):
        through = total[:, None] - jump[t - 1]
        back[t] = through.argmax(0)
        total = through.max(0) + score[t]
    state = np.empty(len(score), int)
    state[-1] = total.argmax()
    for t in range(len(score) - 1, 0, -1):
        state[t - 1] = back[t, state[t]]
    chosen = np.maximum(state - 1, 0)[:, None]
    f0 = np.where(state > 0, np.take_along_axis(hz_TxC, chosen, 1)[:, 0], 0.0)
    return f0, np.take_along_axis(strength_TxC, chosen, 1)[:, 0]


def _formants(power_TxK: np.ndarray, frequency_K: np.ndarray, voiced: np.ndarray) -> dict[str, np.ndarray]:
    """First three formants and their bandwidths, Hz, by selective linear prediction (Makhoul 1975), voiced frames."""
    hz = frequency_K[frequency_K <= _FORMANT_HZ]
    emphasised = power_TxK[voiced][:, : len(hz)] * (1 + (hz / 50) ** 2)  # +6 dB per octave
    values = np.tile(np.array([500.0, 1500, 2500, 100, 100, 100]), (len(voiced), 1))
    if len(emphasised):
        place, width = _resonances(emphasised, 2 * hz[-1])
        place = np.where((place > 150) & (width < 700), place, np.inf)
        order = np.argsort(place, axis=1)[:, :3]
        measured = np.concatenate([np.take_along_axis(place, order, 1), np.take_along_axis(width, order, 1)], axis=1)
        good = np.tile(np.isfinite(measured[:, :3]), 2)
        values[voiced] = np.where(good, measured, values[voiced])
    names = [f"{name}_{i}" for name in ("formant", "bandwidth") for i in (1, 2, 3)]
    return dict(zip(names, values.T, strict=True))


def _resonances(power_TxK: np.ndarray, sample_rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and bandwidths, Hz, of the poles of each frame's linear predictor [frames, order]."""
    acf = scipy.fft.irfft(power_TxK, axis=1)[:, : _LPC_ORDER + 1]
    acf[:, 0] = acf[:, 0] * (1 + 1e-6) + 1e-12
    places = np.abs(np.subtract.outer(np.arange(_LPC_ORDER), np.arange(_LPC_ORDER)))
    companion = np.zeros((len(acf), _LPC_ORDER, _LPC_ORDER))
    companion[:, 0] = np.linalg.solve(acf[:, places], acf[:, 1:, None])[..., 0]
    companion[:, np.arange(1, _LPC_ORDER), np.arange(_LPC_ORDER - 1)] = 1
    pole = np.linalg.eigvals(companion)
    return np.angle(pole) * sample_rate_hz / (2 * np.pi), -np.log(np.abs(pole) + 1e-9) * sample_rate_hz / np.pi


def _harmonics(
    db_TxK: np.ndarray, f0: np.ndarray, sample_rate_hz: int, formants: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Level of the first harmonic relative to the second, the third and those at the formants, dB: breathy or tense."""
    step = sample_rate_hz / 2 / (db_TxK.shape[1] - 1)

    def level(hz: np.ndarray) -> np.ndarray:
        bins = (hz / step)[:, None] + np.arange(-2, 3)
        return np.take_along_axis(db_TxK, np.clip(np.rint(bins), 0, db_TxK.shape[1] - 1).astype(int), 1).max(1)

    first = level(f0)
    at = {i: level(np.maximum(1, np.rint(formants[f"formant_{i}"] / f0)) * f0) for i in (1, 2, 3)}
    return {"h1_h2": first - level(2 * f0), "h1_h3": first - level(3 * f0)} | {f"h1_a{i}": first - at[i] for i in at}
