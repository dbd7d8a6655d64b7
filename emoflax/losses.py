"""Losses as pure functions of logits."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
    logits_BxC: jax.Array, label_B: jax.Array, weight_B: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Weighted mean cross-entropy; rows of weight 0 (padding) do not count. Returns a float32 scalar.

    Label smoothing: Szegedy et al. 2016, section 7.
    """
    target_BxC = jax.nn.one_hot(label_B, logits_BxC.shape[-1], dtype=jnp.float32)
    if label_smoothing:
        target_BxC = optax.smooth_labels(target_BxC, label_smoothing)
    loss_B = optax.softmax_cross_entropy(logits_BxC.astype(jnp.float32), target_BxC)
    return jnp.sum(loss_B * weight_B) / jnp.maximum(jnp.sum(weight_B), 1e-12)
