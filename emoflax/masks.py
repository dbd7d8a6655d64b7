"""Masks of padded sequences."""

import jax
import jax.numpy as jnp


def valid(length_B: jax.Array, steps: int) -> jax.Array:
    """Mask [batch, steps] of the first `length` positions."""
    return jnp.arange(steps)[None] < length_B[:, None]


def masked_softmax(scores: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
    """Softmax over the positions where `mask` is True, zero elsewhere; all zero where it is nowhere True."""
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jnp.where(mask, jax.nn.softmax(scores, axis), 0)
