"""Convolutional encoder of the seed project: a stack of convolution, bias, ReLU and 2x2 max-pooling."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models.conv import ConvBlock


class Cnn(nnx.Module):
    """`len(channels)` blocks, each halving time and frequency; frequency is then folded into the features."""

    def __init__(self, mels: int, *, channels: tuple[int, ...], dtype=jnp.float32, rngs: nnx.Rngs):
        self.shrink = 2 ** len(channels)
        if mels % self.shrink:
            raise UserError(
                f"config.audio.mels={mels} must be a multiple of {self.shrink}: each of the "
                f"{len(channels)} blocks of config.model.cnn.channels halves it"
            )
        self.blocks = nnx.List(
            ConvBlock(fan_in, fan_out, dtype=dtype, rngs=rngs)
            for fan_in, fan_out in zip((1, *channels[:-1]), channels, strict=True)
        )
        self.width = channels[-1] * (mels // self.shrink)

    def __call__(self, logmel_BxTxF: jax.Array, frames_B: jax.Array, key=None) -> tuple[jax.Array, jax.Array]:
        """[batch, frames, mels] -> ([batch, frames / shrink, width], mask).

        Lengths are padded with zeros, the training mean, to whole pooling windows, so that no window holds the end of
        one clip and padding: a padded batch gives the same logits as each clip alone.
        """
        frames = logmel_BxTxF.shape[1]
        h = jnp.pad(logmel_BxTxF, ((0, 0), (0, -frames % self.shrink), (0, 0)))[..., None]
        steps_B = -(-frames_B // self.shrink)
        for depth, block in enumerate(self.blocks, start=1):
            h = block(h)
            inside_BxT = valid(steps_B * (self.shrink >> depth), h.shape[1])
            h = h * inside_BxT[..., None, None].astype(h.dtype)
        return h.reshape(*h.shape[:2], self.width), inside_BxT

    def centres(self, steps: int) -> np.ndarray:
        """The frame in the middle of each step."""
        return (np.arange(steps) + 0.5) * self.shrink
