"""Per-channel energy normalisation in the place of decibels, made of the same log-mels.

    M(t) = (1 - s) M(t - 1) + s E(t)                    the level that a band has had lately
    (E / (M + epsilon)^gain + bias)^root - bias^root     what stands out from it, compressed

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
_WIDTH_MULTIPLE = 64  # frames; one clip is filled up to a multiple of it, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Pcen:
    """Log-mels [batch, frames, channels] in dB -> the same shape, compressed. Beyond a clip's end it means nothing.

    Attributes:
      bands: mel bands at the front of each frame; what follows is left alone.
      hop_ms: from frame to frame.
      time_s: after which the smoother has forgotten all but 1 / e.
      gain: 0: levels stay as they are, 1: they are evened out altogether.
      bias: the higher, the less is made of what is weak.
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
        energy_BxTxG, smoother_TxS = jnp.exp(neper_BxTxG), self._smoother(logmel_BxTxF.shape[1])
        level_BxTxG = jnp.einsum("ts,bsg->btg", smoother_TxS, energy_BxTxG, precision="highest")
        evened_BxTxG = jnp.exp(neper_BxTxG - self.gain * jnp.log(level_BxTxG + _EPSILON))
        pcen_BxTxG = (evened_BxTxG + self.bias) ** self.root - self.bias**self.root
        return jnp.concatenate([pcen_BxTxG, logmel_BxTxF[..., self.bands :]], axis=-1)

    def alone(self, logmel: np.ndarray) -> np.ndarray:
        """[frames, channels], of one clip."""
        row = np.zeros((1, -(-len(logmel) // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE, logmel.shape[1]), np.float32)
        row[0, : len(logmel)] = logmel
        return np.asarray(_of_one(self, row))[0, : len(logmel)]

    def _smoother(self, frames: int) -> np.ndarray:
        """How much of each earlier frame is in M, which begins as the first frame's energy: float32 [frames, frames].

        It looks back only, so that nothing beyond a clip's end is heard; a product costs less than a scan over frames.
        """
        kept = np.exp(-self.hop_ms / 1000 / self.time_s)  # 1 - s
        lag_TxS = np.arange(frames)[:, None] - np.arange(frames)[None]
        kept_TxS = np.where(lag_TxS >= 0, kept ** np.maximum(lag_TxS, 0), 0)
        return np.concatenate([kept_TxS[:, :1], (1 - kept) * kept_TxS[:, 1:]], axis=1).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _of_one(pcen: Pcen, logmel: np.ndarray) -> jax.Array:
    return pcen(logmel)
