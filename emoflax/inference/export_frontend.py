"""From samples to log-mels inside an exported program, for rows of any length: as `features.recording`, on the device.

What depends on the sound, its level and where it begins and ends, is masks and places here, never a shape. Filters with
feedback are cut where what is left of their response is under float32's rounding, and are products of matrices, which
every runtime has. Shape letters: B clips, S samples, N blocks, M envelope (1 ms), Q thresholds, T frames, F channels.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emoflax.audio.frontend import LogMel, Samples
from emoflax.batch import Batch
from emoflax.features import level as levels
from emoflax.features.spectrum import TRIM_FRAME, TRIM_HOP
from emoflax.masks import valid

_RESPONSE_LEFT = 1e-7  # share of a filter's response that is cut off
_FILTER_BLOCK, _ENVELOPE_BLOCK = 128, 32  # outputs of one product; of samples and of the envelope
_FLOOR = np.float32(1e-30)  # of powers, as in features.level
_LARGEST_16_BITS = float(np.iinfo(np.int16).max)


@dataclasses.dataclass(frozen=True)
class WaveformFrontEnd:
    """Waveforms [batch, samples] of any length -> `Batch` of log-mels, or of frames for a wave encoder.

    Attributes:
      frontend: makes log-mels (or frames) of what is left after level and trimming.
      sample_rate_hz, trim_db, level: of config.audio.
      in_16_bits: whether the waveform is rounded to int16 of its own peak first, as config.data.store='wave' does.
    """

    frontend: LogMel | Samples
    sample_rate_hz: int
    trim_db: float
    level: str
    in_16_bits: bool

    def __call__(self, wave_BxS: jax.Array, samples_B: jax.Array) -> Batch:
        """Args: float32 [batch, samples] at sample_rate_hz, full scale 1.0; int32 [batch], length of each."""
        wave_BxS, samples_B = self.shaped(wave_BxS, samples_B)
        hop, least = self.frontend.hop, getattr(self.frontend, "n_fft", 0)
        width = ((wave_BxS.shape[1] + least) // hop + 1) * hop
        wave_BxS = jnp.pad(wave_BxS, ((0, 0), (0, width - wave_BxS.shape[1])))
        scale_B = jnp.ones_like(samples_B, jnp.float32)
        if self.in_16_bits:
            scale_B = jnp.abs(wave_BxS).max(1) / _LARGEST_16_BITS
            wave_BxS = jnp.round(wave_BxS / scale_B[:, None])
        return self.frontend(Batch(wave=wave_BxS, samples=samples_B, scale=scale_B))

    def shaped(self, wave_BxS: jax.Array, samples_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean removed, active speech at one level, silent ends cut off: `features.recording.of_samples`.

        Returns:
          float32 [batch, samples, rounded up], zero beyond the end; int32 [batch], what is left of each length.
        """
        every = max(1, self.sample_rate_hz // 1000)
        unit = math.lcm(TRIM_HOP, _FILTER_BLOCK, every * _ENVELOPE_BLOCK)
        width = (wave_BxS.shape[1] // unit + 1) * unit
        wave_BxS = jnp.pad(wave_BxS, ((0, 0), (0, width - wave_BxS.shape[1])))
        inside_BxS, count_Bx1 = valid(samples_B, width), jnp.maximum(samples_B, 1)[:, None].astype(jnp.float32)
        mean_Bx1 = jnp.where(inside_BxS, wave_BxS, 0).sum(1, keepdims=True) / count_Bx1
        wave_BxS = jnp.where(inside_BxS, wave_BxS - mean_Bx1, 0)
        if self.level == "normalised":
            gain_db_B = levels.SPEECH_DB - active_level_db(wave_BxS, samples_B, self.sample_rate_hz)
            wave_BxS = wave_BxS * jnp.exp(gain_db_B * np.float32(np.log(10) / 20))[:, None]
        return trimmed(wave_BxS, samples_B, self.trim_db) if self.trim_db else (wave_BxS, samples_B)


def active_level_db(wave_BxS: jax.Array, samples_B: jax.Array, sample_rate_hz: int) -> jax.Array:
    """`features.level.active_level_db` of every row, [batch], float32."""
    every = max(1, sample_rate_hz // 1000)
    inside_BxS = valid(samples_B, wave_BxS.shape[1])
    wave_BxS = jnp.where(inside_BxS, _filtered(wave_BxS, levels.high_pass_response(sample_rate_hz), _FILTER_BLOCK), 0)
    means_BxM = jnp.abs(wave_BxS).reshape(wave_BxS.shape[0], -1, every).mean(2)
    envelope_BxM = _filtered(means_BxM, levels.smoothing_response(sample_rate_hz), _ENVELOPE_BLOCK)
    hold = 2 * levels.half_hangover(sample_rate_hz, every)
    held_BxM = lax.reduce_window(envelope_BxM, -jnp.inf, lax.max, (1, hold + 1), (1, 1), ((0, 0), (hold, 0)))
    counted_B = samples_B // every
    held_BxM = jnp.where(valid(counted_B, held_BxM.shape[1]), held_BxM, 0)
    top_Bx1 = jnp.maximum(held_BxM.max(1, keepdims=True), _FLOOR)
    threshold_BxQ = top_Bx1 * (10 ** (levels.THRESHOLDS_DB / 20)).astype(np.float32)[None]
    above_BxQ = (held_BxM[:, :, None] >= threshold_BxQ[:, None]).astype(jnp.float32).sum(1)
    share_BxQ = jnp.maximum(above_BxQ, 1) / jnp.maximum(counted_B, 1)[:, None].astype(jnp.float32)
    power_B = jnp.square(wave_BxS).sum(1) / jnp.maximum(samples_B, 1).astype(jnp.float32)
    level_BxQ = _db(power_B)[:, None] - _db(share_BxQ)
    return _crossing(level_BxQ, level_BxQ - 2 * _db(top_Bx1) - levels.THRESHOLDS_DB.astype(np.float32)[None])


def _crossing(level_BxQ: jax.Array, over_BxQ: jax.Array) -> jax.Array:
    """The level that lies the margin over its own threshold, between the first threshold where it does not and the
    one before; where there is none, that nearest to it."""
    place_BxQ = jnp.arange(len(levels.THRESHOLDS_DB))[None]
    under_BxQ = over_BxQ <= levels.MARGIN_DB
    first_Bx1 = jnp.where(under_BxQ, place_BxQ, len(levels.THRESHOLDS_DB) - 1).min(1, keepdims=True)

    def at(values_BxQ: jax.Array, place_Bx1: jax.Array) -> jax.Array:
        return jnp.where(place_BxQ == place_Bx1, values_BxQ, 0).sum(1)

    before_Bx1 = jnp.maximum(first_Bx1 - 1, 0)
    low_B, high_B = at(over_BxQ, first_Bx1), at(over_BxQ, before_Bx1)
    share_B = jnp.clip((levels.MARGIN_DB - low_B) / jnp.maximum(high_B - low_B, 1e-9), 0, 1)
    between_B = at(level_BxQ, first_Bx1) + share_B * (at(level_BxQ, before_Bx1) - at(level_BxQ, first_Bx1))
    least_B = jnp.where(over_BxQ <= over_BxQ.min(1, keepdims=True), level_BxQ, -jnp.inf).max(1)
    return jnp.where(under_BxQ.any(1), between_B, least_B)


def trimmed(wave_BxS: jax.Array, samples_B: jax.Array, trim_db: float) -> tuple[jax.Array, jax.Array]:
    """`features.spectrum.trim` of every row: moved to the front, zero beyond its end; and the samples that are left."""
    blocks = wave_BxS.shape[1] // TRIM_HOP
    block_BxNxH = wave_BxS.reshape(wave_BxS.shape[0], blocks, TRIM_HOP)
    energy_BxN = jnp.square(block_BxNxH).sum(2)
    half = TRIM_FRAME // TRIM_HOP // 2  # a frame is centred on its hop, with silence beyond both ends
    padded = jnp.pad(energy_BxN, ((0, 0), (half, half)))
    power_BxN = sum(padded[:, i : i + blocks] for i in range(2 * half)) / TRIM_FRAME
    db_BxN = 10 * jnp.log10(jnp.maximum(power_BxN, 1e-10))
    place_1xN = jnp.arange(blocks)[None]
    inside_BxN = place_1xN <= (samples_B // TRIM_HOP)[:, None]
    peak_Bx1 = jnp.where(inside_BxN, db_BxN, -100.0).max(1, keepdims=True)
    loud_BxN = inside_BxN & (db_BxN - peak_Bx1 > -trim_db)
    first_B = jnp.where(loud_BxN, place_1xN, blocks).min(1)
    last_B = jnp.where(loud_BxN, place_1xN, -1).max(1)
    left_B = jnp.minimum((last_B + 1) * TRIM_HOP, samples_B) - first_B * TRIM_HOP
    moved_BxS = rows_from(block_BxNxH, first_B[:, None], blocks).reshape(wave_BxS.shape)
    return jnp.where(valid(left_B, wave_BxS.shape[1]), moved_BxS, 0), left_B.astype(jnp.int32)


def rows_from(x_BxTxF: jax.Array, start_BxW: jax.Array, width: int) -> jax.Array:
    """[batch, windows * width, features]: of each row, `width` steps from each start; past its end, the last one."""
    batch, steps, features = x_BxTxF.shape
    place_BxWxT = jnp.minimum(start_BxW[:, :, None] + jnp.arange(width)[None, None], steps - 1)
    place_BxWxT = place_BxWxT + (jnp.arange(batch) * steps)[:, None, None]
    return x_BxTxF.reshape(batch * steps, features)[place_BxWxT.reshape(-1)].reshape(batch, -1, features)


def _filtered(x_BxS: jax.Array, response_K: np.ndarray, block: int) -> jax.Array:
    """Causal convolution with a response, [batch, samples]; samples are a multiple of `block`."""
    left_K = np.cumsum(np.abs(response_K)[::-1])[::-1]
    taps_K = response_K[: int(np.count_nonzero(left_K > _RESPONSE_LEFT * left_K[0]))]
    reach = -(-(len(taps_K) - 1) // block)  # blocks before its own that a block depends on
    lag = np.arange(block)[None] + reach * block - np.arange((reach + 1) * block)[:, None]
    product = np.where((lag >= 0) & (lag < len(taps_K)), taps_K[np.clip(lag, 0, len(taps_K) - 1)], 0)
    blocks = x_BxS.shape[1] // block
    block_BxNxH = jnp.pad(x_BxS, ((0, 0), (reach * block, 0))).reshape(x_BxS.shape[0], blocks + reach, block)
    near_BxNxK = jnp.concatenate([block_BxNxH[:, i : i + blocks] for i in range(reach + 1)], axis=-1)
    made_BxNxH = jnp.einsum("bnk,kh->bnh", near_BxNxK, product.astype(np.float32), precision="highest")
    return made_BxNxH.reshape(x_BxS.shape)


def _db(power: jax.Array) -> jax.Array:
    return 10 * jnp.log10(jnp.maximum(power, _FLOOR))
