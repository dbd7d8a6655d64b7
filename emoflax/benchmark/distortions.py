"""What equipment, rooms and networks do to recordings: each a function of decoded samples, drawn from a fixed seed.

A distortion takes a `Clip` and a random generator, and returns decoded samples and their rate. Codecs and dead channels
go through a file, which is encoded and decoded as a recording of that kind would be.
"""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import scipy.signal
import soundfile

from emoflax.features import disturb
from emoflax.features.decode import change_speed, decode, resample
from emoflax.features.level import active_level_db

_BABBLE_VOICES = 6
_OPUS_RATE_HZ, _MP3_RATE_HZ, _PHONE_RATE_HZ = 48_000, 24_000, 8_000
_MU = 255.0  # of G.711's law in America and Japan
_PHONE_DB = -20.0  # level at which a telephone network transmits speech
# libsndfile's compression level of 1 is 6 kbit/s of Opus, 0 is 256; of MP3 at 24 kHz these were measured.
_OPUS_LEVEL = {16: 1 - 10 / 250, 8: 1 - 2 / 250}
_MP3_LEVEL = {40: 0.8, 24: 0.9}
ROOMS = {"bathroom": (0.5, 0.0), "living room": (0.4, 6.0), "lecture hall": (0.9, 3.0), "church": (2.0, 0.0)}


@dataclasses.dataclass(frozen=True)
class Clip:
    """`samples`: float32, full scale 1.0; `others`: reads a training clip by another speaker, for babble."""

    samples: np.ndarray
    rate_hz: int
    others: Sequence[Callable[[], tuple[np.ndarray, int]]] = ()


Distortion = Callable[[Clip, np.random.Generator], tuple[np.ndarray, int]]


def gain(clip: Clip, random, db: float) -> tuple[np.ndarray, int]:
    return clip.samples * np.float32(10 ** (db / 20)), clip.rate_hz


def gain_in_16_bits(clip: Clip, random, db: float) -> tuple[np.ndarray, int]:
    """As a 16-bit recorder would have stored it, whose steps are not scaled along."""
    steps = np.round(np.clip(gain(clip, random, db)[0], -1, 1 - 2**-15) * 2**15)
    return (steps / 2**15).astype(np.float32), clip.rate_hz


def offset(clip: Clip, random, db: float) -> tuple[np.ndarray, int]:
    return clip.samples + np.float32(10 ** (db / 20)), clip.rate_hz


def dead_channel(clip: Clip, random) -> tuple[np.ndarray, int]:
    return _through_file(np.stack([clip.samples, np.zeros_like(clip.samples)], 1), clip.rate_hz, "WAV", subtype="FLOAT")


def clipped(clip: Clip, random, share: float) -> tuple[np.ndarray, int]:
    """That share of the samples is beyond the limit."""
    limit = np.quantile(np.abs(clip.samples), 1 - share)
    return np.clip(clip.samples, -limit, limit), clip.rate_hz


def band_limited(clip: Clip, random) -> tuple[np.ndarray, int]:
    return resample(clip.samples, clip.rate_hz, _PHONE_RATE_HZ), _PHONE_RATE_HZ


def telephone(clip: Clip, random) -> tuple[np.ndarray, int]:
    """300 to 3400 Hz at 8 kHz in the 8 bits of G.711."""
    wave = resample(clip.samples, clip.rate_hz, _PHONE_RATE_HZ)
    wave = scipy.signal.sosfilt(scipy.signal.butter(4, (300, 3400), "bandpass", fs=_PHONE_RATE_HZ, output="sos"), wave)
    wave = np.clip(wave * 10 ** ((_PHONE_DB - active_level_db(wave, _PHONE_RATE_HZ)) / 20), -1, 1)
    coded = np.round(np.sign(wave) * np.log1p(_MU * np.abs(wave)) / np.log1p(_MU) * 127) / 127
    return (np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(_MU)) / _MU).astype(np.float32), _PHONE_RATE_HZ


def opus(clip: Clip, random, kbit_per_s: int) -> tuple[np.ndarray, int]:
    wave = resample(clip.samples, clip.rate_hz, _OPUS_RATE_HZ)
    return _through_file(wave, _OPUS_RATE_HZ, "OGG", subtype="OPUS", compression_level=_OPUS_LEVEL[kbit_per_s])


def mp3(clip: Clip, random, kbit_per_s: int) -> tuple[np.ndarray, int]:
    options = {"compression_level": _MP3_LEVEL[kbit_per_s], "bitrate_mode": "CONSTANT"}
    return _through_file(resample(clip.samples, clip.rate_hz, _MP3_RATE_HZ), _MP3_RATE_HZ, "MP3", **options)


def noisy(clip: Clip, random: np.random.Generator, snr_db: float, colour: float) -> tuple[np.ndarray, int]:
    """Noise whose power falls with frequency to the power of `colour`: 0 is white, 1 pink."""
    noise = disturb.coloured(len(clip.samples), colour, random)
    return disturb.add(clip.samples, clip.rate_hz, noise, snr_db), clip.rate_hz


def babble(clip: Clip, random: np.random.Generator, snr_db: float) -> tuple[np.ndarray, int]:
    """Six other speakers at once, at equal levels, from random moments on."""
    total = np.zeros(len(clip.samples))
    for place in random.choice(len(clip.others), _BABBLE_VOICES, replace=len(clip.others) < _BABBLE_VOICES):
        samples, rate_hz = clip.others[place]()
        voice = resample(samples - samples.mean(), rate_hz, clip.rate_hz)
        voice = np.roll(np.resize(voice, len(total)), random.integers(len(total)))
        total += voice / max(float(np.sqrt(np.square(voice).mean())), 1e-9)
    return disturb.add(clip.samples, clip.rate_hz, total, snr_db), clip.rate_hz


def room(clip: Clip, random: np.random.Generator, rt60_s: float, direct_db: float) -> tuple[np.ndarray, int]:
    return disturb.reverberate(clip.samples, clip.rate_hz, random, rt60_s, direct_db), clip.rate_hz


def silence(clip: Clip, random, before_s: float, after_s: float) -> tuple[np.ndarray, int]:
    ends = (round(before_s * clip.rate_hz), round(after_s * clip.rate_hz))
    return np.pad(clip.samples, ends), clip.rate_hz


def speed(clip: Clip, random, factor: float) -> tuple[np.ndarray, int]:
    return change_speed(clip.samples, factor), clip.rate_hz


def _conditions() -> dict[str, Distortion]:
    """Name -> distortion, in the order of the table."""
    of = functools.partial
    made: dict[str, Distortion] = {f"gain {db:+d} dB": of(gain, db=db) for db in (-40, -30, -20, -10, 6)}
    made |= {f"gain {db:+d} dB, 16 bits": of(gain_in_16_bits, db=db) for db in (-40, -20)}
    made |= {f"offset {db:+d} dB": of(offset, db=db) for db in (-60, -50, -40)}
    made |= {"dead channel": dead_channel}
    made |= {f"clipped {100 * share:g} %": of(clipped, share=share) for share in (0.01, 0.1)}
    made |= {"8 kHz": band_limited, "telephone G.711": telephone}
    made |= {f"Opus {rate} kbit/s": of(opus, kbit_per_s=rate) for rate in _OPUS_LEVEL}
    made |= {f"MP3 {rate} kbit/s": of(mp3, kbit_per_s=rate) for rate in _MP3_LEVEL}
    for name, colour in (("white", 0.0), ("pink", 1.0)):
        made |= {f"{name} noise, SNR {snr} dB": of(noisy, snr_db=snr, colour=colour) for snr in (20, 10, 5, 0)}
    made |= {f"babble, SNR {snr} dB": of(babble, snr_db=snr) for snr in (20, 10, 5, 0)}
    made |= {name: of(room, rt60_s=rt60_s, direct_db=direct_db) for name, (rt60_s, direct_db) in ROOMS.items()}
    made |= {"2 s of silence before": of(silence, before_s=2, after_s=0)}
    made |= {"2 s of silence after": of(silence, before_s=0, after_s=2)}
    return made | {f"speed {factor:g}": of(speed, factor=factor) for factor in (0.8, 0.9, 1.1, 1.25)}


CONDITIONS = _conditions()


def _through_file(samples: np.ndarray, rate_hz: int, kind: str, **options) -> tuple[np.ndarray, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"clip.{kind.lower()}"
        soundfile.write(path, samples, rate_hz, format=kind, **options)
        return decode(str(path))
