"""Losses as pure functions of logits."""

import jax
import jax.numpy as jnp
import optax


def targets(label_B: jax.Array, classes: int, label_smoothing: float | jax.Array = 0.0) -> jax.Array:
    """Labels [batch] -> probabilities of each class [batch, classes] float32.

    Label smoothing: Szegedy et al. 2016, section 7.
    """
    target_BxC = jax.nn.one_hot(label_B, classes, dtype=jnp.float32)
    return optax.smooth_labels(target_BxC, label_smoothing)


def cross_entropy(logits_BxC: jax.Array, target_BxC: jax.Array, weight_B: jax.Array) -> jax.Array:
    """Weighted mean cross-entropy with target probabilities; rows of weight 0 (padding) do not count. float32."""
    loss_B = optax.softmax_cross_entropy(logits_BxC.astype(jnp.float32), target_BxC)
    return jnp.sum(loss_B * weight_B) / jnp.maximum(jnp.sum(weight_B), 1e-12)
