"""Log-mels of waveforms on the device, without an audio library."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from emoflax.audio.wave_frames import WAVE_FRAME, wave_frames
from emoflax.batch import Batch
from emoflax.parallel.mesh import by_device

# How many dB one unit of log-mels is; Whisper's are (log10 + 4) / 4, Kaldi's as AST knows them (ln + 4.27) / 9.14.
# Samples have none: what changes log-mels is refused with 'waveform'.
UNIT_DB = {"librosa": 1.0, "whisper": 40.0, "kaldi": 39.7, "waveform": 1.0}

_LINEAR_HZ = 200 / 3  # below 1 kHz a mel is this wide
_KNEE_HZ, _KNEE_MEL = 1000.0, 15.0
_STEP = np.log(6.4) / 27  # above it, each mel multiplies the frequency by exp(this)
_FLOOR_POWER = 1e-10
_RANGE_DB = 80.0  # from a clip's loudest cell down to its floor
_WIDTH_MULTIPLE = 64  # frames; one waveform is padded to a multiple of it, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class LogMel:
    """`emoflax.features.log_mel.mel_db` as part of a compiled program, equal to librosa within 1e-3 dB."""

    sample_rate_hz: int
    window_ms: float
    hop_ms: float
    mels: int
    fmin_hz: float
    fmax_hz: float

    @property
    def window(self) -> int:
        return round(self.window_ms * self.sample_rate_hz / 1000)

    @property
    def hop(self) -> int:
        return round(self.hop_ms * self.sample_rate_hz / 1000)

    @property
    def n_fft(self) -> int:
        return 1 << (self.window - 1).bit_length()

    def width(self, samples: int, multiple: int) -> int:
        """Samples that rows are padded to, so that their frames are a multiple of `multiple`."""
        frames = 1 + max(samples, self.n_fft) // self.hop
        return -(-frames // multiple) * multiple * self.hop

    def __call__(self, batch: Batch) -> Batch:
        """Puts log-mels in dB in the place of waveforms, which are as wide as `width` says.

        What is shorter than a window counts as filled up with silence; 0 samples give 0 frames.
        """
        wave_BxS = batch.wave.astype(jnp.float32) * batch.scale[:, None]
        frames_B = 1 + jnp.maximum(batch.samples, self.n_fft) // self.hop
        frames_B = jnp.where(batch.samples > 0, frames_B, 0)
        power_BxTxK = self._power(wave_BxS)
        cells_BxTxF = jnp.einsum("btk,fk->btf", power_BxTxK, self._filters(), precision="highest")
        db_BxTxF = 10 * jnp.log10(jnp.maximum(cells_BxTxF, _FLOOR_POWER))
        inside_BxTx1 = (jnp.arange(db_BxTxF.shape[1])[None] < frames_B[:, None])[..., None]
        peak_B = jnp.max(db_BxTxF, axis=(1, 2), where=inside_BxTx1, initial=10 * np.log10(_FLOOR_POWER))
        db_BxTxF = jnp.maximum(db_BxTxF, peak_B[:, None, None] - _RANGE_DB)
        logmel_BxTxF = jnp.where(inside_BxTx1, db_BxTxF, 0)
        return batch.replace(logmel=logmel_BxTxF, frames=frames_B, wave=None, samples=None, scale=None)

    def alone(self, wave: np.ndarray, scale: float) -> np.ndarray:
        """[samples], to be multiplied by scale -> [frames, mels], of one clip."""
        row = np.zeros((1, self.width(len(wave), _WIDTH_MULTIPLE)), wave.dtype)
        row[0, : len(wave)] = wave
        one = Batch(wave=row, samples=np.array([len(wave)], np.int32), scale=np.array([scale], np.float32))
        made = _of_one(self, one)
        return np.asarray(made.logmel)[0, : int(made.frames[0])]

    def _power(self, wave_BxS: jax.Array) -> jax.Array:
        """Power spectrum [batch, frames, 1 + n_fft / 2] of windows around every hop, with silence beyond both ends."""
        clips, samples = wave_BxS.shape
        frames, hops = samples // self.hop, -(-self.n_fft // self.hop)
        after = (frames + hops) * self.hop - samples - self.n_fft // 2
        blocks_BxNxH = jnp.pad(wave_BxS, ((0, 0), (self.n_fft // 2, after))).reshape(clips, frames + hops, self.hop)
        # A frame is a prefix of so many consecutive hops: concatenating shifted copies costs less than gathering.
        shifted = [blocks_BxNxH[:, i : i + frames] for i in range(hops)]
        frames_BxTxN = jnp.concatenate(shifted, axis=-1)[..., : self.n_fft]
        spectrum_BxTxK = by_device(jnp.fft.rfft)(frames_BxTxN * self._hann()[None, None])
        return jnp.square(spectrum_BxTxK.real) + jnp.square(spectrum_BxTxK.imag)

    def _hann(self) -> np.ndarray:
        """Periodic Hann window in the middle of n_fft samples, float32."""
        window = np.zeros(self.n_fft, np.float32)
        begin = (self.n_fft - self.window) // 2
        window[begin : begin + self.window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        return window

    def _filters(self) -> np.ndarray:
        """Triangles of equal area, float32 [mels, 1 + n_fft / 2]."""
        hz = np.linspace(0, self.sample_rate_hz / 2, 1 + self.n_fft // 2)[None]
        edges_hz = band_edges_hz(self.mels, self.fmin_hz, self.fmax_hz)[:, None]
        low, middle, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
        triangles = np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle))
        return (np.maximum(triangles, 0) * 2 / (high - low)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Samples:
    """The waveform itself in the place of log-mels, cut into frames: what `wave_frames` makes, on the device."""

    hop: int = WAVE_FRAME

    def width(self, samples: int, multiple: int) -> int:
        """Samples that rows are padded to, so that their frames are a multiple of `multiple`."""
        return -(-samples // (self.hop * multiple)) * multiple * self.hop

    def __call__(self, batch: Batch) -> Batch:
        """Puts frames in the place of waveforms; the last one of a clip is filled up with zeros."""
        wave_BxS = batch.wave.astype(jnp.float32) * batch.scale[:, None]
        wave_BxS = jnp.where(jnp.arange(wave_BxS.shape[1])[None] < batch.samples[:, None], wave_BxS, 0)
        wave_BxTxH = wave_BxS.reshape(len(wave_BxS), -1, self.hop)
        frames_B = -(-batch.samples // self.hop)
        return batch.replace(logmel=wave_BxTxH, frames=frames_B, wave=None, samples=None, scale=None)

    def alone(self, wave: np.ndarray, scale: float) -> np.ndarray:
        """[samples], to be multiplied by scale -> [frames, samples of a frame], of one clip."""
        return wave_frames(wave.astype(np.float32) * np.float32(scale))


Frontend = LogMel | Samples


@functools.partial(jax.jit, static_argnums=0)
def _of_one(frontend: LogMel, batch: Batch) -> Batch:
    return frontend(batch)


def band_edges_hz(mels: int, fmin_hz: float, fmax_hz: float) -> np.ndarray:
    """Edges of overlapping triangles, evenly spread over Slaney's mel scale: band i is between edges i and i + 2."""
    low, high = (
        hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_MEL + np.log(hz / _KNEE_HZ) / _STEP for hz in (fmin_hz, fmax_hz)
    )
    mel = np.linspace(low, high, mels + 2)
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ, _KNEE_HZ * np.exp(_STEP * (mel - _KNEE_MEL)))
