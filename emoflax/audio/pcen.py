"""Per-channel energy normalisation in the place of decibels, made of the same log-mels.

    M(t) = (1 - s) M(t - 1) + s E(t)                    the recent level of a band
    (E / (M + epsilon)^gain + bias)^root - bias^root     energy relative to that level, compressed

Wang et al. 2017 (arXiv:1607.05666); what the parameters do to speech and to noise: Lostanlen et al. 2019
(doi:10.1109/LSP.2018.2878620). The parameters are fixed.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from emoflax.errors import UserError

_EPSILON = 1e-10  # power; the lowest that a log-mel holds (`frontend.LogMel`)
_NEPER = np.log(10) / 10  # one dB of power, as a natural logarithm
_WIDTH_MULTIPLE = 64  # frames; one clip is padded to a multiple of it, so that few shapes are compiled
_BLOCK = 128  # frames smoothed by one product: longer than most clips, and 64 kB of weights


@dataclasses.dataclass(frozen=True)
class Pcen:
    """Log-mels [batch, frames, channels] in dB -> the same shape, compressed; undefined beyond a clip's end.

    Attributes:
      bands: mel bands at the front of each frame; further channels stay unchanged.
      hop_ms: from frame to frame.
      time_s: time constant of the smoother, after which a frame's weight has fallen to 1 / e.
      gain: 0: levels stay as they are, 1: differences of level are removed.
      bias: the higher, the more weak energies are suppressed.
      root: of the compression; 1: none.
    """

    bands: int
    hop_ms: float
    time_s: float
    gain: float
    bias: float
    root: float

    def __post_init__(self):
        if self.time_s <= 0 or not 0 <= self.gain <= 1 or self.bias < 0 or not 0 < self.root <= 1:
            raise UserError(
                "config.model.pcen: time_s must be 0 (off) or more, gain from 0 to 1, bias 0 or more, root above 0 and "
                "at most 1"
            )

    def __call__(self, logmel_BxTxF: jax.Array) -> jax.Array:
        neper_BxTxG = logmel_BxTxF[..., : self.bands] * _NEPER
        level_BxTxG = self._smoothed(jnp.exp(neper_BxTxG))
        evened_BxTxG = jnp.exp(neper_BxTxG - self.gain * jnp.log(level_BxTxG + _EPSILON))
        pcen_BxTxG = (evened_BxTxG + self.bias) ** self.root - self.bias**self.root
        return jnp.concatenate([pcen_BxTxG, logmel_BxTxF[..., self.bands :]], axis=-1)

    def alone(self, logmel: np.ndarray) -> np.ndarray:
        """[frames, channels], of one clip."""
        row = np.zeros((1, -(-len(logmel) // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE, logmel.shape[1]), np.float32)
        row[0, : len(logmel)] = logmel
        return np.asarray(_of_one(self, row))[0, : len(logmel)]

    def _smoothed(self, energy_BxTxG: jax.Array) -> jax.Array:
        """M of every frame, which begins as the first frame's energy: [batch, frames, bands].

        It depends on earlier frames alone, so that padding beyond a clip's end has no influence. Blocks of frames are
        smoothed by one matrix product each, which costs less than a scan over frames; a scan over blocks then adds
        the level that each block begins with. Memory is linear in the length.
        """
        frames = energy_BxTxG.shape[1]
        block = min(frames, _BLOCK)
        kept = np.exp(-self.hop_ms / 1000 / self.time_s)  # 1 - s
        lag_SxS = np.arange(block)[:, None] - np.arange(block)[None]
        weight_SxS = np.where(lag_SxS >= 0, (1 - kept) * kept ** np.maximum(lag_SxS, 0), 0).astype(np.float32)
        fading_S = (kept ** np.arange(1, block + 1)).astype(np.float32)  # what remains of the level before the block
        padded_BxTxG = jnp.pad(energy_BxTxG, ((0, 0), (0, -frames % block), (0, 0)))
        blocks_BxNxSxG = padded_BxTxG.reshape(len(padded_BxTxG), -1, block, padded_BxTxG.shape[2])
        own_BxNxSxG = jnp.einsum("ts,bnsg->bntg", weight_SxS, blocks_BxNxSxG, precision="highest")

        def next_level(level_BxG: jax.Array, own_BxG: jax.Array) -> tuple[jax.Array, jax.Array]:
            return own_BxG + fading_S[-1] * level_BxG, level_BxG

        own_NxBxG = jnp.moveaxis(own_BxNxSxG[:, :, -1], 1, 0)
        _, before_NxBxG = jax.lax.scan(next_level, energy_BxTxG[:, 0], own_NxBxG)
        before_BxNx1xG = jnp.moveaxis(before_NxBxG, 0, 1)[:, :, None]
        level_BxNxSxG = own_BxNxSxG + fading_S[None, None, :, None] * before_BxNx1xG
        return level_BxNxSxG.reshape(padded_BxTxG.shape)[:, :frames]


@functools.partial(jax.jit, static_argnums=0)
def _of_one(pcen: Pcen, logmel: np.ndarray) -> jax.Array:
    return pcen(logmel)
