"""Randomness of a forward pass: drawn from a key that is passed down, and absent without one."""

import jax
import jax.numpy as jnp


def split(key: jax.Array | None, parts: int) -> list:
    """`parts` keys, or as many None: evaluation has no key."""
    return [None] * parts if key is None else list(jax.random.split(key, parts))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share of the numbers and scales the others up (Srivastava et al. 2014); nothing without a key."""
    if key is None or not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)
