"""Noise, babble, rooms and narrow bands, as functions of float32 [samples] and a random generator; on the processor.

`copy_of` draws several of them: what a closed-form model learns from beside a clip as it was recorded. Networks have
the same on the device, drawn anew for every step (`emoflax.audio.augment_wave`).
"""

import dataclasses
import zlib

import numpy as np
import scipy.signal

from emoflax.features.decode import change_speed, digest, resample
from emoflax.features.level import active_level_db
from emoflax.features.recording import Recording, at_rate, of_samples
from emoflax.features.untrusted import decode

_ROOM, _NOISE, _BAND = 0.35, 0.7, 0.4  # shares of the copies that get each; a copy that gets none gets noise
_BABBLE = 0.5  # share of the noises that are babble
_RT60_S, _DIRECT_DB, _SNR_DB = (0.2, 1.0), (0.0, 15.0), (0.0, 25.0)
_BAND_TOP_HZ, _BAND_LOW_HZ = (3_400.0, 8_000.0), 300.0
_VOICES = 6
_LEAD_S = 0.005  # between the direct sound and the first reverberation


def read_copy(
    path: str, start_s: float, end_s: float | None, number: int, *, sample_rate_hz: int, trim_db: float, level: str
) -> Recording:
    """As `recording.read`, of copy `number` of the recording; the digest is that of the recording itself."""
    samples, rate_hz = decode(path, start_s, end_s)
    samples = at_rate(samples, rate_hz, sample_rate_hz)
    own = digest(samples)
    random = np.random.default_rng([number, zlib.crc32(own.encode())])
    copy = copy_of(samples, sample_rate_hz, random)
    made = of_samples(*copy, sample_rate_hz=sample_rate_hz, trim_db=trim_db, level=level)
    return dataclasses.replace(made, digest=own)


def copy_of(samples: np.ndarray, rate_hz: int, random: np.random.Generator) -> tuple[np.ndarray, int]:
    """A recording in another room, in noise, and through a narrow band, or some of these; with its new rate."""
    room, noise, band = random.random(3) < (_ROOM, _NOISE, _BAND)
    samples = samples - samples.mean(dtype=np.float64).astype(np.float32)
    if room:
        samples = reverberate(samples, rate_hz, random, random.uniform(*_RT60_S), random.uniform(*_DIRECT_DB))
    if noise or not (room or band):
        drawn = (
            babble_of(samples, random) if random.random() < _BABBLE else coloured(len(samples), random.random(), random)
        )
        samples = add(samples, rate_hz, drawn, random.uniform(*_SNR_DB))
    if band:
        top_hz = np.exp(random.uniform(*np.log(_BAND_TOP_HZ)))
        return limit_band(samples, rate_hz, top_hz, _BAND_LOW_HZ if random.random() < 0.5 else 0.0)
    return samples, rate_hz


def coloured(length: int, colour: float, random: np.random.Generator) -> np.ndarray:
    """Noise [length] whose power falls with frequency to the power of `colour`: 0 is white, 1 pink."""
    spectrum = np.fft.rfft(random.normal(size=length))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-colour / 2)
    spectrum[0] = 0
    return np.fft.irfft(spectrum, length)


def babble_of(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The voice itself six times, backwards, at other speeds and from other moments on: no other clip is needed."""
    total = np.zeros(len(samples))
    for speed in random.uniform(0.8, 1.25, _VOICES):
        voice = np.resize(change_speed(samples[::-1].copy(), round(speed, 2)), len(samples))
        total += np.roll(voice, random.integers(len(samples)))
    return total


def add(samples: np.ndarray, rate_hz: int, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """The recording and noise whose mean power is that far under the active level of the speech."""
    level_db = active_level_db(samples - samples.mean(), rate_hz) - snr_db
    scale = 10 ** (level_db / 20) / max(float(np.sqrt(np.square(noise).mean())), 1e-12)
    return (samples + scale * noise).astype(np.float32)


def reverberate(
    samples: np.ndarray, rate_hz: int, random: np.random.Generator, rt60_s: float, direct_db: float
) -> np.ndarray:
    """Convolution with the direct sound and noise that decays by 60 dB in rt60_s, `direct_db` under it altogether."""
    after = np.arange(round(rt60_s * rate_hz))
    tail = random.normal(size=len(after)) * np.exp(-0.5 * np.log(1e6) * after / len(after))
    tail[: round(_LEAD_S * rate_hz)] = 0
    response = tail * 10 ** (-direct_db / 20) / np.sqrt(np.square(tail).sum())
    response[0] = 1
    return scipy.signal.fftconvolve(samples, response).astype(np.float32)


def limit_band(samples: np.ndarray, rate_hz: int, top_hz: float, low_hz: float) -> tuple[np.ndarray, int]:
    """What a recorder or a network leaves that transmits from low_hz (0: from the lowest) to top_hz; its rate."""
    new_hz = min(rate_hz, round(2 * top_hz))
    samples = resample(samples, rate_hz, new_hz)
    if low_hz:
        samples = scipy.signal.sosfilt(scipy.signal.butter(4, low_hz, "highpass", fs=new_hz, output="sos"), samples)
    return samples.astype(np.float32), new_hz
