"""Convolution, bias, ReLU and 2x2 max-pooling, and gradients that are cheap on a CPU.

Accelerators get XLA's own convolution and pooling. On a CPU three things differ, each for a measured reason
(`docs/benchmarks.md`): pooling keeps one byte per output that names the winner instead of running
select-and-scatter; a kernel's gradient is summed over small groups of clips, which halves its time; and a layer
with a single input channel adds shifted planes, so that its large output is never written to memory.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from emoflax.parallel.mesh import summed_by_device

_GROUP = 4  # clips whose share of a kernel's gradient is taken at once: their transposed copies stay in the cache
_DEAD = 4  # winner's number where ReLU cut the output to zero: no gradient flows


def conv2d(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array, bias_D: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding; K is odd.

    `[batch, frames, mels, channels]` to `[batch, frames, mels, out channels]`.
    """
    conv = _cpu_conv if _on_cpu() else _conv
    return conv(x_BxTxFxC, kernel_KxKxCxD) + bias_D[None, None, None]


def conv_relu_pool(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array, bias_D: jax.Array) -> jax.Array:
    """Convolution, bias, ReLU, 2x2 max-pooling with stride 2; frames and mels must be even, K odd.

    `[batch, frames, mels, channels]` to `[batch, frames / 2, mels / 2, out channels]`. Where values tie, the gradient
    goes to the first of them, row by row, as in PyTorch.
    """
    if _on_cpu():
        return _conv_relu_pool(x_BxTxFxC, kernel_KxKxCxD, bias_D)
    y_BxTxFxD = conv2d(x_BxTxFxC, kernel_KxKxCxD, bias_D)
    return nnx.max_pool(nnx.relu(y_BxTxFxD), (2, 2), (2, 2))


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


def _on_cpu() -> bool:
    # Every path is right on every platform, so that a program compiled for another one than this is only slower.
    return jax.default_backend() == "cpu"


def _conv(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x_BxTxFxC, kernel_KxKxCxD, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _cpu_conv(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array) -> jax.Array:
    return _conv(x_BxTxFxC, kernel_KxKxCxD)


def _cpu_conv_fwd(x_BxTxFxC, kernel_KxKxCxD):
    return _conv(x_BxTxFxC, kernel_KxKxCxD), (x_BxTxFxC, kernel_KxKxCxD)


def _cpu_conv_bwd(saved, dy_BxTxFxD):
    x_BxTxFxC, kernel_KxKxCxD = saved
    dx_BxTxFxC = _conv(dy_BxTxFxD, kernel_KxKxCxD[::-1, ::-1].swapaxes(2, 3))

    @summed_by_device
    def by_groups(x_BxTxFxC, dy_BxTxFxD):
        group = math.gcd(x_BxTxFxC.shape[0], _GROUP)
        groups = [a.reshape(-1, group, *a.shape[1:]) for a in (x_BxTxFxC, dy_BxTxFxD)]

        def add_group(total, x_and_dy):
            return total + _kernel_gradient(*x_and_dy, kernel_KxKxCxD.shape[0]), None

        return lax.scan(add_group, jnp.zeros(kernel_KxKxCxD.shape), groups)[0]

    return dx_BxTxFxC, by_groups(x_BxTxFxC, dy_BxTxFxD).astype(kernel_KxKxCxD.dtype)


def _kernel_gradient(x_BxTxFxC, dy_BxTxFxD, size: int) -> jax.Array:
    """The kernel's gradient as a forward convolution in which batch and channels have changed places.

    It is what autodiff makes too, but with the transposes written out. XLA for CPUs finds its fast convolution for
    autodiff's form only outside of loops: in `lax.scan` that form takes 70 times as long.
    """
    dkernel_CxKxKxD = lax.conv_general_dilated(
        x_BxTxFxC.transpose(3, 1, 2, 0),
        dy_BxTxFxD.transpose(1, 2, 0, 3),
        (1, 1),
        [(size // 2, size // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return dkernel_CxKxKxD.transpose(1, 2, 0, 3)


_cpu_conv.defvjp(_cpu_conv_fwd, _cpu_conv_bwd)


@jax.custom_vjp
def _conv_relu_pool(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array, bias_D: jax.Array) -> jax.Array:
    return _conv_relu_pool_fwd(x_BxTxFxC, kernel_KxKxCxD, bias_D)[0]


def _conv_relu_pool_fwd(x_BxTxFxC, kernel_KxKxCxD, bias_D):
    corners = _one_channel_corners if x_BxTxFxC.shape[-1] == 1 else _corners
    a, b, c, d = corners(x_BxTxFxC, kernel_KxKxCxD)
    top, bottom = jnp.maximum(a, b), jnp.maximum(c, d)
    # Adding the bias and cutting at zero keep the order, so both wait until a quarter of the values is left.
    pooled = jnp.maximum(top, bottom) + bias_D[None, None, None]
    winner = jnp.where(top >= bottom, jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3))
    winner = jnp.where(pooled > 0, winner, _DEAD).astype(jnp.int8)
    return nnx.relu(pooled), (x_BxTxFxC, kernel_KxKxCxD, winner)


def _conv_relu_pool_bwd(saved, dpooled):
    x_BxTxFxC, kernel_KxKxCxD, winner = saved
    corner = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    dy = jnp.where(winner[:, :, None, :, None] == corner, dpooled[:, :, None, :, None], 0)
    dy_BxTxFxD = dy.reshape(*x_BxTxFxC.shape[:3], dpooled.shape[-1])
    dbias_D = jnp.where(winner == _DEAD, 0, dpooled).sum((0, 1, 2), dtype=jnp.float32).astype(dpooled.dtype)
    return *_cpu_conv_bwd((x_BxTxFxC, kernel_KxKxCxD), dy_BxTxFxD), dbias_D


_conv_relu_pool.defvjp(_conv_relu_pool_fwd, _conv_relu_pool_bwd)


def _corners(x_BxTxFxC, kernel_KxKxCxD) -> list[jax.Array]:
    """The convolution at the four corners of every 2x2 window, row by row, each `[batch, frames / 2, mels / 2, D]`."""
    y = _conv(x_BxTxFxC, kernel_KxKxCxD)
    return [y[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _one_channel_corners(x_BxTxFx1, kernel_KxKx1xD) -> list[jax.Array]:
    """`_corners` as sums of shifted planes, which XLA fuses with the pooling that follows."""
    size, reach = kernel_KxKx1xD.shape[0], kernel_KxKx1xD.shape[0] // 2
    _, frames, mels, _ = x_BxTxFx1.shape
    # Without the barrier the padding's bounds checks move into the inner loop, which is then no longer vectorised.
    x = lax.optimization_barrier(jnp.pad(x_BxTxFx1, ((0, 0), (reach, reach), (reach, reach), (0, 0))))

    def corner(row, column):
        return sum(
            x[:, row + i : row + i + frames - 1 : 2, column + j : column + j + mels - 1 : 2]
            * kernel_KxKx1xD[None, None, i, j]
            for i in range(size)
            for j in range(size)
        )

    return [corner(row, column) for row in (0, 1) for column in (0, 1)]
