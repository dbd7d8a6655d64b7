"""Statistics over a clip's time of the outputs of a pretrained encoder's layers.

What the probing literature takes is the mean (SUPERB, Yang et al. 2021, arXiv:2105.01051); the deviation adds how much
a voice moves. Shape letters: B clips, S steps, D width, L layers, P parts, V statistics.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def count(parts: int) -> int:
    """Statistics of each layer."""
    return 2 + parts


def summarise(outputs: Sequence[jax.Array], mask_BxS: jax.Array, parts: int) -> jax.Array:
    """Mean, deviation, and the means of `parts` equal parts of each clip's steps, of every layer.

    A clip of fewer steps than parts has its mean in the parts that no step falls into; one of no steps has zeros.

    Args:
      outputs: of each layer, [batch, steps, width].
      mask_BxS: which steps are the clip's.

    Returns:
      float32 [batch, layers, 2 + parts, width].
    """
    steps_Bx1 = jnp.maximum(mask_BxS.sum(1, keepdims=True), 1)
    part_BxS = jnp.arange(mask_BxS.shape[1])[None] * parts // steps_Bx1
    inside_BxSxP = jax.nn.one_hot(part_BxS, parts) * mask_BxS[..., None]
    some_BxPx1 = inside_BxSxP.any(1)[..., None]
    share_BxSxP = inside_BxSxP / jnp.maximum(inside_BxSxP.sum(1, keepdims=True), 1)
    share_BxSx1 = (mask_BxS / steps_Bx1)[..., None]

    def of_layer(h_BxSxD: jax.Array) -> jax.Array:
        h_BxSxD = jnp.where(mask_BxS[..., None], h_BxSxD.astype(jnp.float32), 0)
        mean_Bx1xD = _weighted(share_BxSx1, h_BxSxD)
        deviation_Bx1xD = jnp.sqrt(_weighted(share_BxSx1, jnp.square(h_BxSxD - mean_Bx1xD)))
        parts_BxPxD = jnp.where(some_BxPx1, _weighted(share_BxSxP, h_BxSxD), mean_Bx1xD)
        return jnp.concatenate([mean_Bx1xD, deviation_Bx1xD, parts_BxPxD], axis=1)

    return jnp.stack([of_layer(h_BxSxD) for h_BxSxD in outputs], axis=1)


def _weighted(share_BxSxP: jax.Array, h_BxSxD: jax.Array) -> jax.Array:
    return jnp.einsum("bsp,bsd->bpd", share_BxSxP, h_BxSxD, precision="highest")
