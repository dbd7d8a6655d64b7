"""Convolution, bias, ReLU and 2x2 max-pooling."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


def conv2d(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array, bias_D: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding, `[batch, frames, mels, channels]` in and out."""
    y_BxTxFxD = lax.conv_general_dilated(
        x_BxTxFxC, kernel_KxKxCxD, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y_BxTxFxD + bias_D[None, None, None]


def conv_relu_pool(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array, bias_D: jax.Array) -> jax.Array:
    """Convolution, bias, ReLU, 2x2 max-pooling: `[batch, frames / 2, mels / 2, channels]`; frames and mels are even."""
    y_BxTxFxD = conv2d(x_BxTxFxC, kernel_KxKxCxD, bias_D)
    batch, frames, mels, channels = y_BxTxFxD.shape
    return nnx.relu(y_BxTxFxD.reshape(batch, frames // 2, 2, mels // 2, 2, channels).max((2, 4)))


class ConvBlock(nnx.Module):
    """`conv_relu_pool` with weights of its own, kept in float32 whatever the arithmetic's `dtype`."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, dtype=jnp.float32, rngs: nnx.Rngs
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_channels))
        self.dtype = dtype

    def __call__(self, x_BxTxFxC: jax.Array) -> jax.Array:
        """`[batch, frames, mels, in_channels]` to `[batch, frames / 2, mels / 2, out_channels]`."""
        x_BxTxFxC, kernel, bias = (a.astype(self.dtype) for a in (x_BxTxFxC, self.kernel[...], self.bias[...]))
        return conv_relu_pool(x_BxTxFxC, kernel, bias)
