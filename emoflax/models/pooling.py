"""Masks, and from a sequence and its mask to one vector per clip. Positions outside the mask never count."""

import jax
import jax.numpy as jnp


def valid(length_B: jax.Array, steps: int) -> jax.Array:
    """Mask [batch, steps] of the first `length` positions."""
    return jnp.arange(steps)[None] < length_B[:, None]


def mean(sequence_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """[batch, steps, width] -> [batch, width]."""
    weight = mask_BxT.astype(sequence_BxTxD.dtype)
    total = jnp.einsum("btd,bt->bd", sequence_BxTxD, weight)
    return total / jnp.maximum(weight.sum(1, keepdims=True), 1)


def mean_max(sequence_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """[batch, steps, width] -> [batch, 2 * width]: what a clip is like, and what it reaches at least once."""
    lowest = jnp.finfo(sequence_BxTxD.dtype).min
    highest = jnp.max(sequence_BxTxD, axis=1, initial=lowest, where=mask_BxT[..., None])
    highest = jnp.where(mask_BxT.any(1, keepdims=True), highest, 0)
    return jnp.concatenate([mean(sequence_BxTxD, mask_BxT), highest], axis=-1)


# name -> (function, width of its output as a multiple of the sequence's)
POOLINGS = {"mean": (mean, 1), "mean_max": (mean_max, 2)}
