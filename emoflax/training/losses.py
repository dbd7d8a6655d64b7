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


def supervised_contrastive(
    vectors_BxD: jax.Array, label_B: jax.Array, weight_B: jax.Array, temperature: float
) -> jax.Array:
    """Khosla et al. 2020 (arXiv:2004.11362), equation 2: vectors of one label are drawn together. float32.

    For each clip the mean over the others of its label of -log(their share of its similarity to all others), weighted
    like cross-entropy. Rows of weight 0 (padding) are compared with nothing; a clip alone with its label has no say.
    """
    z_BxD = vectors_BxD.astype(jnp.float32)
    z_BxD *= jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z_BxD), axis=1, keepdims=True), 1e-12))
    others_BxB = (weight_B > 0)[None] & ~jnp.eye(len(label_B), dtype=bool)
    alike_BxB = others_BxB & (label_B[:, None] == label_B[None])
    similarity_BxB = jnp.einsum("id,jd->ij", z_BxD, z_BxD, precision="highest") / temperature
    total_B = jax.nn.logsumexp(jnp.where(others_BxB, similarity_BxB, jnp.finfo(jnp.float32).min), axis=1)
    count_B = alike_BxB.sum(1)
    loss_B = jnp.sum(jnp.where(alike_BxB, total_B[:, None] - similarity_BxB, 0), axis=1) / jnp.maximum(count_B, 1)
    weight_B = jnp.where(count_B > 0, weight_B, 0)
    return jnp.sum(loss_B * weight_B) / jnp.maximum(jnp.sum(weight_B), 1e-12)
