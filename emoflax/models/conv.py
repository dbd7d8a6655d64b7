"""Convolution, bias, ReLU and 2x2 max-pooling. XLA's own operations; on a CPU with the gradients of conv_cpu.py."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from emoflax.models import conv_cpu

_PORTABLE = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """What is traced inside has XLA's own operations, whatever this machine is: for programs that go elsewhere."""
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def conv_relu_pool(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array, bias_D: jax.Array) -> jax.Array:
    """Convolution with stride 1 and zero padding, bias, ReLU, 2x2 max-pooling; frames and mels even, K odd.

    `[batch, frames, mels, channels]` to `[batch, frames / 2, mels / 2, out channels]`. Where values tie, the gradient
    goes to the first of them, row by row, as in PyTorch.
    """
    if jax.default_backend() == "cpu" and not _PORTABLE.get():
        return conv_cpu.conv_relu_pool(x_BxTxFxC, kernel_KxKxCxD, bias_D)
    y_BxTxFxD = lax.conv_general_dilated(
        x_BxTxFxC, kernel_KxKxCxD, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return nnx.max_pool(nnx.relu(y_BxTxFxD + bias_D[None, None, None]), (2, 2), (2, 2))


class ConvBlock(nnx.Module):
    """`conv_relu_pool` with weights of its own, kept in float32 whatever the arithmetic's `dtype`."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, dtype=jnp.float32, rngs: nnx.Rngs):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_channels))
        self.dtype = dtype

    def __call__(self, x_BxTxFxC: jax.Array) -> jax.Array:
        """`[batch, frames, mels, in_channels]` to `[batch, frames / 2, mels / 2, out_channels]`."""
        x_BxTxFxC, kernel, bias = (a.astype(self.dtype) for a in (x_BxTxFxC, self.kernel[...], self.bias[...]))
        return conv_relu_pool(x_BxTxFxC, kernel, bias)
