"""Mel bands that a recording does not have, such as those above 4 kHz in one that was made at 8 kHz.

After resampling they hold the floor in every frame, which a model would take for a voice without brilliance. They say
nothing about the voice, so they get the training mean, which is 0 after normalisation, as under a mask of SpecAugment.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emoflax.masks import valid

_SHARE = 0.1  # of the frames in which anything sounds


@dataclasses.dataclass(frozen=True)
class AbsentBands:
    """Log-mels [batch, frames, channels] in dB -> the same, with the training mean in absent bands.

    A band is absent if neither it nor any above it comes within `below_db` of the clip's loudest cell in more than a
    tenth of the frames that do so in any band. A tenth, because where a recording begins and ends in the middle of a
    sound, the frames there have all bands.

    Attributes:
      bands: mel bands at the front of each frame; further channels stay unchanged.
      below_db: what was made at 8 kHz is at the floor, 80 dB down, in every band above 4 kHz.
    """

    bands: int
    below_db: float

    def __call__(self, x_BxTxF: jax.Array, frames_B: jax.Array, mean_F: jax.Array) -> jax.Array:
        inside_BxTx1 = valid(frames_B, x_BxTxF.shape[1])[..., None]
        mels_BxTxF = jnp.where(inside_BxTx1, x_BxTxF[..., : self.bands], -jnp.inf)
        absent_BxF = jnp.pad(self._absent(mels_BxTxF), ((0, 0), (0, x_BxTxF.shape[-1] - self.bands)))
        return jnp.where(absent_BxF[:, None] & inside_BxTx1, mean_F[None, None], x_BxTxF)

    def of_clip(self, logmel: np.ndarray) -> np.ndarray:
        """bool [channels], which bands of a clip's log-mel [frames, channels] are absent."""
        absent = np.zeros(logmel.shape[1], bool)
        absent[: self.bands] = self._absent(logmel[:, : self.bands])
        return absent

    def _absent(self, mels: Any) -> Any:
        """bool [..., bands] of [..., frames, bands], jax or numpy; -inf beyond a clip's end."""
        sounds = mels > mels.max((-2, -1), keepdims=True) - self.below_db
        there = sounds.sum(-2) > _SHARE * sounds.any(-1).sum(-1)[..., None]
        number = np.arange(1, self.bands + 1).reshape((1,) * (there.ndim - 1) + (self.bands,))
        highest = (there * number).max(-1, keepdims=True)  # 0 where there is none, and then none is absent
        return (number > highest) & (highest > 0)
