"""From a sequence and its mask to one vector per clip. Steps outside the mask never count.

A pooling is built as `Pooling(width, **its_config, dtype=, rngs=)` and called with a sequence [batch, steps, width] and
its mask [batch, steps]; its `width` is that of the vectors that it returns. A clip without a valid step gives zeros.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from emoflax.errors import UserError
from emoflax.masks import masked_softmax

SMALLEST_VARIANCE = 1e-6  # added under the square root, whose gradient is unbounded at 0


class Mean(nnx.Module):
    """[batch, steps, width] -> [batch, width]."""

    def __init__(self, width: int, *, dtype=jnp.float32, rngs: nnx.Rngs | None = None):
        self.width = width

    def __call__(self, sequence_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        weight = mask_BxT.astype(sequence_BxTxD.dtype)
        total = jnp.einsum("btd,bt->bd", sequence_BxTxD, weight)
        return total / jnp.maximum(weight.sum(1, keepdims=True), 1)


class MeanMax(nnx.Module):
    """[batch, steps, width] -> [batch, 2 * width]: mean and maximum over the valid steps."""

    def __init__(self, width: int, *, dtype=jnp.float32, rngs: nnx.Rngs | None = None):
        self.mean, self.width = Mean(width), 2 * width

    def __call__(self, sequence_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        valid = jnp.where(mask_BxT[..., None], sequence_BxTxD, jnp.finfo(sequence_BxTxD.dtype).min)
        highest = jnp.where(mask_BxT.any(1, keepdims=True), _highest(valid), 0)
        return jnp.concatenate([self.mean(sequence_BxTxD, mask_BxT), highest], axis=-1)


@jax.custom_vjp
def _highest(x_BxTxD: jax.Array) -> jax.Array:
    """[batch, steps, width] -> [batch, width], the maximum over the steps; the gradient goes to the first that has it.

    The gradient of jnp.max compares each step with the maximum, and XLA may compute the two with different rounding, so
    that none is equal and the gradient is lost. `argmax` avoids that; it takes three times as long, in training alone.
    """
    return x_BxTxD.max(1)


def _highest_forward(x_BxTxD):
    place_Bx1xD = jnp.argmax(x_BxTxD, axis=1, keepdims=True)
    return jnp.take_along_axis(x_BxTxD, place_Bx1xD, axis=1)[:, 0], (place_Bx1xD, x_BxTxD.shape[1])


def _highest_backward(kept, d_BxD):
    place_Bx1xD, steps = kept
    return (jnp.where(jnp.arange(steps)[None, :, None] == place_Bx1xD, d_BxD[:, None], 0),)


_highest.defvjp(_highest_forward, _highest_backward)


class AttentiveStatistics(nnx.Module):
    """[batch, steps, width] -> [batch, 2 * width]: weighted mean and standard deviation over time.

    Okabe et al. 2018 (arXiv:1803.10963), with a share of the width for each head, so that the number of heads hardly
    changes the cost. Every head scores the whole vector of a step; its weights over the valid steps add up to 1.
    """

    def __init__(self, width: int, *, heads: int, hidden: int, dtype=jnp.float32, rngs: nnx.Rngs):
        if width % heads:
            raise UserError(
                f"config.model.attention.heads={heads} must divide {width}, the width of the sequence that is pooled"
            )
        self.heads, self.width = heads, 2 * width
        self.hidden = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.score = nnx.Linear(hidden, heads, dtype=dtype, rngs=rngs)

    def weights(self, sequence_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """[batch, steps, heads] float32."""
        score_BxTxH = self.score(jnp.tanh(self.hidden(sequence_BxTxD)))
        return masked_softmax(score_BxTxH.astype(jnp.float32), mask_BxT[..., None], axis=1)

    def __call__(self, sequence_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        weight_BxTxH = self.weights(sequence_BxTxD, mask_BxT)
        x_BxTxHxK = sequence_BxTxD.astype(jnp.float32).reshape(*sequence_BxTxD.shape[:2], self.heads, -1)
        mean_BxHxK = jnp.einsum("bth,bthk->bhk", weight_BxTxH, x_BxTxHxK)
        # Not the mean of squares minus the square of the mean: that difference of large numbers can be negative.
        variance_BxHxK = jnp.einsum("bth,bthk->bhk", weight_BxTxH, jnp.square(x_BxTxHxK - mean_BxHxK[:, None]))
        std_BxHxK = jnp.sqrt(variance_BxHxK + SMALLEST_VARIANCE)
        pooled_BxD = jnp.concatenate([mean_BxHxK, std_BxHxK], axis=-1).reshape(-1, self.width)
        return jnp.where(mask_BxT.any(1, keepdims=True), pooled_BxD, 0).astype(sequence_BxTxD.dtype)
