"""Compact temporal convolutional encoder, made for attention pooling.

Residual blocks of dilated convolutions over time (Bai et al. 2018, arXiv:1803.01271, but not causal, and normalised as
in pre-norm Transformers). All bands of a frame are the channels of one step, so that every layer is a matrix product,
which is fast on every machine. The price: nothing in it is invariant to a shift in frequency, which augmentation has
to teach (`config.augment.vtlp`, `shift_bands`).

Shape letters: B clips, T frames or steps, F mels, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models.dropout import dropout, split


class TimeConv(nnx.Module):
    """Convolution over time with zero padding: the neighbours of each step side by side, times one matrix."""

    def __init__(self, fan_in: int, fan_out: int, *, kernel: int, dilation: int = 1, stride: int = 1, dtype, rngs):
        self.kernel, self.dilation, self.stride = kernel, dilation, stride
        init = nnx.initializers.he_normal()
        self.product = nnx.Linear(kernel * fan_in, fan_out, kernel_init=init, dtype=dtype, rngs=rngs)

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        """[batch, steps, fan_in] -> [batch, steps / stride, fan_out], rounded up."""
        reach = self.kernel // 2 * self.dilation
        steps = x_BxTxD.shape[1]
        x_BxTxD = jnp.pad(x_BxTxD, ((0, 0), (reach, reach), (0, 0)))
        starts = range(0, self.kernel * self.dilation, self.dilation)
        return self.product(jnp.concatenate([x_BxTxD[:, at : at + steps : self.stride] for at in starts], axis=-1))


class Block(nnx.Module):
    """Normalisation, dilated convolution, ReLU, dropout, product; added to what came in."""

    def __init__(self, width: int, *, kernel: int, dilation: int, dropout: float, dtype, rngs: nnx.Rngs):
        self.rate = dropout
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.conv = TimeConv(width, width, kernel=kernel, dilation=dilation, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_BxTxD: jax.Array, mask_BxTx1: jax.Array, key: jax.Array | None) -> jax.Array:
        h_BxTxD = jnp.where(mask_BxTx1, self.norm(x_BxTxD), 0)  # or the norm's bias would enter beyond the clip's end
        h_BxTxD = dropout(jax.nn.relu(self.conv(h_BxTxD)), self.rate, key)
        return x_BxTxD + self.out(h_BxTxD)


class AttentionCnn(nnx.Module):
    """One strided convolution and a block for each dilation.

    Args:
      mels: F, channels of the first convolution.
      width: D.
      kernel: steps that a block's convolution sees; odd, as is `stem_kernel`, the first one's in frames.
      stride: frames per step.
      dilations: of the blocks, one each.
      dropout: share of the numbers zeroed inside each block in training.
    """

    def __init__(
        self,
        mels: int,
        *,
        width: int,
        kernel: int,
        stem_kernel: int,
        stride: int,
        dilations: tuple[int, ...],
        dropout: float,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if not (kernel % 2 and stem_kernel % 2):
            raise UserError("config.model.attention_cnn: kernel and stem_kernel must be odd, like 3 or 5")
        self.width, self.stride = width, stride
        options = {"dtype": dtype, "rngs": rngs}
        self.stem = TimeConv(mels, width, kernel=stem_kernel, stride=stride, **options)
        self.layers = nnx.List(
            Block(width, kernel=kernel, dilation=dilation, dropout=dropout, **options) for dilation in dilations
        )
        self.norm = nnx.LayerNorm(width, **options)

    def __call__(
        self, logmel_BxTxF: jax.Array, frames_B: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[batch, frames, mels] -> ([batch, frames / stride, width], mask), rounded up."""
        h_BxTxD = self.stem(logmel_BxTxF)
        mask_BxT = valid(-(-frames_B // self.stride), h_BxTxD.shape[1])
        for layer, layer_key in zip(self.layers, split(key, len(self.layers)), strict=True):
            h_BxTxD = layer(h_BxTxD, mask_BxT[..., None], layer_key)
        return jax.nn.relu(self.norm(h_BxTxD)), mask_BxT

    def centres(self, steps: int) -> np.ndarray:
        """The frame in the middle of each step."""
        return np.arange(steps) * self.stride + 0.5
