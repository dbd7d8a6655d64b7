"""Randomness of a forward pass: drawn from a key that is passed down, and absent without one."""

import jax
import jax.numpy as jnp
from flax import nnx


class Rate(nnx.Variable):
    """A share that randomness acts on: an argument of a compiled program, so that models differing in it share one."""

    @classmethod
    def of(cls, rate: float) -> "Rate | None":
        """None for 0: nothing random is then compiled."""
        return cls(jnp.float32(rate)) if rate else None


def split(key: jax.Array | None, parts: int) -> list:
    """`parts` keys, or as many None: evaluation has no key."""
    return [None] * parts if key is None else list(jax.random.split(key, parts))


def dropout(x: jax.Array, rate: Rate | None, key: jax.Array | None) -> jax.Array:
    """Zeroes a share of the numbers and scales the others up (Srivastava et al. 2014); nothing without a key."""
    if key is None or rate is None:
        return x
    kept = 1 - rate[...]
    return jnp.where(jax.random.bernoulli(key, kept, x.shape), x / kept.astype(x.dtype), 0)


def token_dropout(tokens: jax.Array, rate: Rate | None, key: jax.Array | None, unknown: int) -> jax.Array:
    """Puts the unknown word in the place of a share of the tokens; nothing without a key."""
    if key is None or rate is None:
        return tokens
    return jnp.where(jax.random.bernoulli(key, rate[...], tokens.shape), unknown, tokens)
