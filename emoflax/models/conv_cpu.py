"""Convolution, bias, ReLU and 2x2 max-pooling with gradients for CPUs alone; `conv.py` is the plain operation.

It computes the same numbers on every platform, but only on a CPU is it faster than XLA's own gradients. Times are
processor time in ms for a batch of 32 on two cores (`docs/benchmarks.md`):

- Pooling keeps one byte per output, the place of the maximum, where XLA runs select-and-scatter: its gradient takes 1.7
  for 64 x 64 outputs of 64 channels, and the block's output before pooling is not kept for the backward pass.
- A kernel's gradient is summed over groups of 4 clips, whose transposed copies stay in the cache: 29 instead of 54 for
  32 -> 64 channels on 64 x 64.
- A layer with one input channel adds shifted planes, so that its large output is never written to memory: a training
  step of `cnn2` takes 80 instead of 110.

Without gradients XLA's own operations are the faster ones for up to 16 clips, because YNNPACK pools while it convolves:
3.1 instead of 6.3 ms on two cores for 16 clips of 32 -> 64 channels on 48 x 32. With more clips they are slower, and an
output that is written to memory then comes faster from XLA's other convolution, Eigen's: 3.4.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from emoflax.parallel.mesh import summed_by_device

_DIMENSIONS = "NHWC", "HWIO", "NHWC"
_MOST_FUSED = 16  # clips of a batch
_GROUP = 4  # clips per group of a kernel's gradient
_DEAD = 4  # stands for the place of the maximum where ReLU's output is zero: no gradient flows


@jax.custom_vjp
def conv_relu_pool(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array, bias_D: jax.Array) -> jax.Array:
    """As `conv.conv_relu_pool`: `[batch, frames, mels, channels]` to `[batch, frames / 2, mels / 2, out channels]`."""
    if len(x_BxTxFxC) > _MOST_FUSED:
        return _forward(x_BxTxFxC, kernel_KxKxCxD, bias_D, rows_behind=1)[0]
    pooled = nnx.max_pool(_convolve(x_BxTxFxC, kernel_KxKxCxD), (2, 2), (2, 2))
    return nnx.relu(pooled + bias_D[None, None, None])


def _forward(x_BxTxFxC, kernel_KxKxCxD, bias_D, rows_behind: int = 0):
    if x_BxTxFxC.shape[-1] == 1:
        a, b, c, d = _one_channel_corners(x_BxTxFxC, kernel_KxKxCxD)
    else:
        a, b, c, d = _corners(_convolve(x_BxTxFxC, kernel_KxKxCxD, rows_behind))
    top, bottom = jnp.maximum(a, b), jnp.maximum(c, d)
    # Bias and ReLU keep the order of values, so both are applied after pooling, to a quarter of the values.
    pooled = jnp.maximum(top, bottom) + bias_D[None, None, None]
    place = jnp.where(top >= bottom, jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3))
    place = jnp.where(pooled > 0, place, _DEAD).astype(jnp.int8)
    return nnx.relu(pooled), (x_BxTxFxC, kernel_KxKxCxD, place)


def _backward(saved, dpooled):
    x_BxTxFxC, kernel_KxKxCxD, place = saved
    corner = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    dy = jnp.where(place[:, :, None, :, None] == corner, dpooled[:, :, None, :, None], 0)
    dy_BxTxFxD = dy.reshape(*x_BxTxFxC.shape[:3], dpooled.shape[-1])
    dbias_D = jnp.where(place == _DEAD, 0, dpooled).sum((0, 1, 2), dtype=jnp.float32).astype(dpooled.dtype)
    return *_convolution_gradients(x_BxTxFxC, kernel_KxKxCxD, dy_BxTxFxD), dbias_D


conv_relu_pool.defvjp(_forward, _backward)


def _convolve(x_BxTxFxC: jax.Array, kernel_KxKxCxD: jax.Array, rows_behind: int = 0) -> jax.Array:
    """`[batch, frames, mels, out channels]`; rows computed behind the last frame and cut off again make it Eigen's."""
    reach = kernel_KxKxCxD.shape[0] // 2
    padding = (reach, reach + rows_behind), (reach, reach)
    y_BxTxFxD = lax.conv_general_dilated(x_BxTxFxC, kernel_KxKxCxD, (1, 1), padding, dimension_numbers=_DIMENSIONS)
    return y_BxTxFxD[:, : x_BxTxFxC.shape[1]]


def _corners(y_BxTxFxD: jax.Array) -> list[jax.Array]:
    """Of every 2x2 window, row by row, each `[batch, frames / 2, mels / 2, out channels]`."""
    return [y_BxTxFxD[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _one_channel_corners(x_BxTxFx1, kernel_KxKx1xD) -> list[jax.Array]:
    """`_corners` of the convolution as sums of shifted planes, which XLA fuses with the pooling that follows."""
    size, reach = kernel_KxKx1xD.shape[0], kernel_KxKx1xD.shape[0] // 2
    _, frames, mels, _ = x_BxTxFx1.shape
    # Without the barrier XLA moves the padding's bounds checks into the inner loop, which is then not vectorised.
    x = lax.optimization_barrier(jnp.pad(x_BxTxFx1, ((0, 0), (reach, reach), (reach, reach), (0, 0))))

    def corner(row, column):
        return sum(
            x[:, row + i : row + i + frames - 1 : 2, column + j : column + j + mels - 1 : 2]
            * kernel_KxKx1xD[None, None, i, j]
            for i in range(size)
            for j in range(size)
        )

    return [corner(row, column) for row in (0, 1) for column in (0, 1)]


def _convolution_gradients(x_BxTxFxC, kernel_KxKxCxD, dy_BxTxFxD) -> tuple[jax.Array, jax.Array]:
    """Of the input and of the kernel."""
    dx_BxTxFxC = _convolve(dy_BxTxFxD, kernel_KxKxCxD[::-1, ::-1].swapaxes(2, 3))

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

    Autodiff's convolution, but with its transposes written out: inside `lax.scan`, where XLA for CPUs does not use its
    fast convolution for autodiff's form, that form takes 70 times as long.
    """
    dkernel_CxKxKxD = lax.conv_general_dilated(
        x_BxTxFxC.transpose(3, 1, 2, 0),
        dy_BxTxFxD.transpose(1, 2, 0, 3),
        (1, 1),
        [(size // 2, size // 2)] * 2,
        dimension_numbers=_DIMENSIONS,
    )
    return dkernel_CxKxKxD.transpose(1, 2, 0, 3)
