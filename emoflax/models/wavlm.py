"""WavLM (Chen et al. 2022, arXiv:2110.13900): attention with a bias that depends on the distance, gated by the query.

Shape letters as in wave.py; N heads, G width of one head.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.models.transformer import Attention
from emoflax.models.wave import WaveEncoder

GATES, UNITS_OF_A_GATE = 2, 4


class GatedAttention(Attention):
    """Attention whose position bias [heads, steps, steps] every query scales for itself."""

    def __init__(self, width: int, heads: int, *, key_bias: bool = True, dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(width, heads, key_bias=key_bias, dtype=dtype, rngs=rngs)
        self.gate = nnx.Linear(width // heads, GATES * UNITS_OF_A_GATE, dtype=dtype, rngs=rngs)
        self.gate_scale = nnx.Param(jnp.ones(heads))

    def __call__(
        self, x_BxTxD: jax.Array, memory_BxSxD: jax.Array, mask_BxS: jax.Array, bias: jax.Array | None = None
    ) -> jax.Array:
        x_BxTxNxG = x_BxTxD.reshape(*x_BxTxD.shape[:2], self.heads, -1)
        units_BxTxNx2x4 = self.gate(x_BxTxNxG).reshape(*x_BxTxNxG.shape[:3], GATES, UNITS_OF_A_GATE)
        gates_BxTxNx2 = jax.nn.sigmoid(units_BxTxNx2x4.sum(-1))
        update_BxTxN, reset_BxTxN = gates_BxTxNx2[..., 0], gates_BxTxNx2[..., 1]
        gate_BxTxN = update_BxTxN * (reset_BxTxN * self.gate_scale[...][None, None] - 1) + 2
        gated_BxNxTxS = gate_BxTxN.transpose(0, 2, 1)[..., None] * bias[None]
        return super().__call__(x_BxTxD, memory_BxSxD, mask_BxS, gated_BxNxTxS.astype(x_BxTxD.dtype))


class WavLm(WaveEncoder):
    """A `WaveEncoder` with gated relative positions.

    Args:
      buckets: of distances, half of them for each direction; the nearer half of these hold one distance each.
      distance: in steps, from which on all are in the last bucket.
      options: of `WaveEncoder`.
    """

    def __init__(self, frame: int, *, heads: int, buckets: int, distance: int, rngs: nnx.Rngs, **options):
        super().__init__(frame, heads=heads, attention=GatedAttention, rngs=rngs, **options)
        self.buckets, self.distance = buckets, distance
        self.stem.distance_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (buckets, heads)))

    def bias(self, steps: int) -> jax.Array:
        bucket_TxS = bucket_of(np.arange(steps)[None] - np.arange(steps)[:, None], self.buckets, self.distance)
        return self.stem.distance_embedding[...][bucket_TxS].transpose(2, 0, 1)


def bucket_of(offset: np.ndarray, buckets: int, distance: int) -> np.ndarray:
    """Bucket of each offset in steps: exact for near ones, then in logarithmic parts up to `distance`."""
    half, away = buckets // 2, np.abs(offset)
    exact = half // 2
    share = np.log(np.maximum(away, 1).astype(np.float32) / exact) / np.log(distance / exact)
    far = np.minimum((exact + share * (half - exact)).astype(int), half - 1)
    return np.where(offset > 0, half, 0) + np.where(away < exact, away, far)
