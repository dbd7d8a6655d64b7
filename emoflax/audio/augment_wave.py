"""Augmentation of waveforms on the device, before log-mels are made of them: pure functions of (draws, batch).

As in `augment.py`, `u_BxK` are draws between 0 and 1, K for each clip. Samples beyond a clip's end stay zero.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from emoflax.audio.augment import check_strengths, on
from emoflax.batch import Batch
from emoflax.masks import valid
from emoflax.parallel.mesh import by_device

_NOISE_SAMPLES = 1 << 14  # noise repeats after so many (1 s at 16 kHz): drawing numbers is what noise costs
_VOICES = 3  # of other clips of the batch, in babble
_BAND_LOW_HZ, _BAND_EDGE_HZ = 300.0, 200.0  # where telephones begin; width of a band's edges
_DECAY = np.log(1e6)  # reverberation has lost 60 dB of its power after its RT60
_MOST = {
    "crop": 0.9, "speed": 1, "pitch_semitones": 12, "gain_db": 100, "polarity": 1, "noise": 1, "room": 1, "babble": 1,
    "band": 1,
}  # fmt: skip
# Fields that a compiled program can take as arguments; the length of a room's response shapes it.
STRENGTHS = (
    "crop", "speed", "pitch_semitones", "room", "room_direct_db", "noise", "noise_snr_db", "gain_db", "polarity",
    "babble", "babble_snr_db", "band",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WaveAugmentation:
    """Which augmentations act, and how strongly; 0 switches one off. The fields of config.augment.wave."""

    crop: float = 0.0
    speed: float = 0.0
    pitch_semitones: float = 0.0
    room: float = 0.0
    room_rt60_s: tuple[float, float] = (0.1, 0.6)
    room_direct_db: tuple[float, float] = (0.0, 15.0)
    noise: float = 0.0
    noise_snr_db: tuple[float, float] = (5.0, 40.0)
    babble: float = 0.0
    babble_snr_db: tuple[float, float] = (0.0, 20.0)
    band: float = 0.0
    band_top_hz: tuple[float, float] = (3_400.0, 8_000.0)
    gain_db: float = 0.0
    polarity: float = 0.0
    sample_rate_hz: int = 16_000

    def __post_init__(self):
        check_strengths(self, "config.augment.wave", _MOST)

    @property
    def acts(self) -> bool:
        return any(on(getattr(self, name)) for name in _MOST)

    def __call__(self, key: jax.Array, batch: Batch) -> Batch:
        """A batch with waveforms -> the same, augmented.

        A shift of pitch is a change of speed, which `Augmentation` undoes on the log-mel: the factor by which that is
        to be stretched is left in the batch as `tempo`.
        """
        if batch.wave is None or not self.acts:
            return batch
        x, samples = batch.wave.astype(jnp.float32) * batch.scale[:, None], batch.samples
        u_key, noise_key, room_key = jax.random.split(key, 3)
        u = jax.random.uniform(u_key, (len(samples), 12))
        place, room, noise, level = jnp.split(u, [4, 7, 10], axis=1)
        if on(self.crop) or on(self.speed) or on(self.pitch_semitones):
            pitch = 2 ** (self.pitch_semitones / 12 * (2 * place[:, 3] - 1))
            rate = (1 + self.speed) ** (2 * place[:, 2] - 1) * pitch
            x, samples = resample(place[:, :2], x, samples, crop=self.crop, rate_B=rate)
            batch = batch.replace(tempo=pitch) if on(self.pitch_semitones) else batch
        if on(self.room):
            length = round(self.room_rt60_s[1] * self.sample_rate_hz)
            decaying = jax.random.normal(room_key, (len(x), length))
            rt60 = _between(room[:, 1], self.room_rt60_s) * self.sample_rate_hz
            response = room_response(decaying, rt60, _between(room[:, 2], self.room_direct_db))
            x = jnp.where(room[:, :1] < self.room, reverberate(x, response, samples), x)
        if on(self.noise):
            white = jax.random.normal(noise_key, (2, len(x), _NOISE_SAMPLES // 2 + 1))
            snr_db = _between(noise[:, 2], self.noise_snr_db)
            noisy = add(x, coloured(white, noise[:, 1], x.shape[1]), samples, snr_db)
            x = jnp.where(noise[:, :1] < self.noise, noisy, x)
        more = jax.random.uniform(jax.random.fold_in(key, 0xBAB), (len(samples), 5))
        if on(self.babble):
            noisy = add(x, voices(x), samples, _between(more[:, 1], self.babble_snr_db))
            x = jnp.where(more[:, :1] < self.babble, noisy, x)
        if on(self.band):
            top_hz = jnp.exp(_between(more[:, 3], tuple(np.log(self.band_top_hz).tolist())))
            limited = inside(limit_band(x, _BAND_LOW_HZ * jnp.round(more[:, 4]), top_hz, self.sample_rate_hz), samples)
            x = jnp.where(more[:, 2:3] < self.band, limited, x)
        gain = 10 ** (self.gain_db / 20 * (2 * level[:, 0] - 1))
        x = x * jnp.where(level[:, 1] < self.polarity, -gain, gain)[:, None]
        return batch.replace(wave=x, samples=samples, scale=jnp.ones_like(batch.scale))


def resample(
    u_Bx2: jax.Array, x_BxS: jax.Array, samples_B: jax.Array, *, crop: float, rate_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cuts up to the share `crop` off, split at random between both ends, and plays the rest `rate` times as fast.

    Pitch and tempo change together (Ko et al. 2015). Four neighbours and a cubic (Catmull-Rom) give the values between
    samples: accurate to 0.1 dB up to a quarter of the sample rate. Samples that no longer fit into the padded width are
    cut.
    """
    width = x_BxS.shape[1]
    cut_B = jnp.floor(crop * samples_B * u_Bx2[:, 0])
    place_BxS = jnp.floor(cut_B * u_Bx2[:, 1])[:, None] + jnp.arange(width)[None] * rate_B[:, None]
    whole_BxS = jnp.floor(place_BxS)
    t = place_BxS - whole_BxS
    near = [jnp.clip(whole_BxS.astype(int) + step, 0, width - 1) for step in (-1, 0, 1, 2)]
    a, b, c, d = (jnp.take_along_axis(x_BxS, places, axis=1) for places in near)
    x_BxS = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    shorter_B = jnp.clip(jnp.floor((samples_B - cut_B) / rate_B), 1, width).astype(samples_B.dtype)
    samples_B = jnp.where(samples_B > 0, shorter_B, 0)
    return inside(x_BxS, samples_B), samples_B


def room_response(noise_BxL: jax.Array, rt60_B: jax.Array, direct_db_B: jax.Array) -> jax.Array:
    """Impulse responses [batch, L]: the direct sound, then white noise that decays by 60 dB in `rt60` samples.

    The direct sound's power is `direct_db` above that of all reverberation, and both together are 1.
    """
    after_1xL = jnp.arange(noise_BxL.shape[1])[None]
    tail_BxL = jnp.where(after_1xL > 0, noise_BxL * jnp.exp(-0.5 * _DECAY * after_1xL / rt60_B[:, None]), 0)
    ratio_Bx1 = 10 ** (direct_db_B / 10)[:, None]
    tail_BxL = tail_BxL / jnp.sqrt(jnp.square(tail_BxL).sum(1, keepdims=True) * (1 + ratio_Bx1))
    return tail_BxL + jnp.where(after_1xL == 0, jnp.sqrt(ratio_Bx1 / (1 + ratio_Bx1)), 0)


def reverberate(x_BxS: jax.Array, response_BxL: jax.Array, samples_B: jax.Array) -> jax.Array:
    """Convolution with each clip's room response; reverberation after the clip's end is cut."""
    width = x_BxS.shape[1]
    size = _fast_length(width + response_BxL.shape[1])

    @by_device
    def convolve(x_BxS: jax.Array, response_BxL: jax.Array) -> jax.Array:
        return jnp.fft.irfft(jnp.fft.rfft(x_BxS, size) * jnp.fft.rfft(response_BxL, size), size)[:, :width]

    return inside(convolve(x_BxS, response_BxL), samples_B)


def coloured(normal_2xBxK: jax.Array, colour_B: jax.Array, width: int) -> jax.Array:
    """Noise [batch, width] whose power falls with frequency to the power of `colour`: 0 is white, 1 pink.

    Args:
      normal_2xBxK: real and imaginary part of a spectrum of white noise.
    """
    frequency_1xK = jnp.maximum(jnp.arange(normal_2xBxK.shape[2]), 1)[None]
    spectrum_BxK = jax.lax.complex(*normal_2xBxK) * frequency_1xK ** (-0.5 * colour_B[:, None])
    noise_BxN = by_device(jnp.fft.irfft)(spectrum_BxK.at[:, 0].set(0))  # no offset
    return jnp.tile(noise_BxN, (1, -(-width // noise_BxN.shape[1])))[:, :width]


def add(x_BxS: jax.Array, noise_BxS: jax.Array, samples_B: jax.Array, snr_db_B: jax.Array) -> jax.Array:
    """The clip and noise, whose mean powers over the clip are `snr_db` apart."""
    noise_BxS = inside(noise_BxS, samples_B)
    signal_Bx1, added_Bx1 = (jnp.square(part).sum(1, keepdims=True) for part in (x_BxS, noise_BxS))
    ratio_Bx1 = 10 ** (-snr_db_B / 10)[:, None]
    return x_BxS + noise_BxS * jnp.sqrt(ratio_Bx1 * signal_Bx1 / jnp.maximum(added_Bx1, 1e-12))


def voices(x_BxS: jax.Array) -> jax.Array:
    """The next three clips of the batch at once, at equal powers: babble. The batch is in random order already."""
    power_Bx1 = jnp.square(x_BxS).mean(1, keepdims=True)
    even_BxS = x_BxS / jnp.sqrt(jnp.maximum(power_Bx1, 1e-12))
    return jnp.stack([jnp.roll(even_BxS, 1 + place, axis=0) for place in range(_VOICES)]).sum(0)


def limit_band(x_BxS: jax.Array, low_hz_B: jax.Array, top_hz_B: jax.Array, sample_rate_hz: int) -> jax.Array:
    """What a telephone or a codec lets through: nothing above `top_hz`, and nothing under `low_hz` (0: all)."""
    width = x_BxS.shape[1]
    size = _fast_length(width)
    hz_1xK = jnp.linspace(0, sample_rate_hz / 2, size // 2 + 1)[None]
    below_BxK = jnp.clip((top_hz_B[:, None] - hz_1xK) / _BAND_EDGE_HZ + 0.5, 0, 1)
    above_BxK = jnp.clip((hz_1xK - low_hz_B[:, None]) / _BAND_EDGE_HZ + 0.5, 0, 1)
    above_BxK = jnp.where(low_hz_B[:, None] > 0, above_BxK, 1)

    @by_device
    def filtered(x_BxS: jax.Array, share_BxK: jax.Array) -> jax.Array:
        return jnp.fft.irfft(jnp.fft.rfft(x_BxS, size) * share_BxK, size)[:, :width]

    return filtered(x_BxS, below_BxK * above_BxK)


def inside(x_BxS: jax.Array, samples_B: jax.Array) -> jax.Array:
    """Zero beyond each clip's end."""
    return jnp.where(valid(samples_B, x_BxS.shape[1]), x_BxS, 0)


def _between(u_B: jax.Array, ends: tuple[float, float]) -> jax.Array:
    return ends[0] + (ends[1] - ends[0]) * u_B


def _fast_length(samples: int) -> int:
    """The least length from `samples` on whose real Fourier transform is fast."""
    from scipy.fft import next_fast_len  # 0.2 s, which no prediction needs

    return next_fast_len(samples, real=True)
