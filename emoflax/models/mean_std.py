"""Mean and deviation over a clip's time, brought to one scale: what closed-form models take of an encoder's states.

Built and called as the poolings in pooling.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.models.classifier import Statistic
from emoflax.models.pooling import SMALLEST_VARIANCE, Mean


class MeanStd(nnx.Module):
    """[batch, steps, width] -> [batch, 2 * width]: mean and deviation over the valid steps, standardised.

    The scale of an encoder's channels differs by orders of magnitude, and a head learns at one rate. Mean and deviation
    that standardise are those of the training clips under the weights that training begins with
    (`experiment.start.initial_model`).
    """

    def __init__(self, width: int, *, dtype=jnp.float32, rngs: nnx.Rngs | None = None):
        self.average, self.width = Mean(width), 2 * width
        self.mean, self.std = Statistic(jnp.zeros(self.width)), Statistic(jnp.ones(self.width))

    def set(self, mean: np.ndarray, std: np.ndarray) -> None:
        self.mean[...], self.std[...] = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)

    def __call__(self, sequence_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        x_BxTxD = sequence_BxTxD.astype(jnp.float32)
        mean_BxD = self.average(x_BxTxD, mask_BxT)
        variance_BxD = self.average(jnp.square(x_BxTxD - mean_BxD[:, None]), mask_BxT)
        pooled_BxD = jnp.concatenate([mean_BxD, jnp.sqrt(variance_BxD + SMALLEST_VARIANCE)], axis=-1)
        z_BxD = (pooled_BxD - self.mean[...][None]) / self.std[...][None]
        return jnp.where(mask_BxT.any(1, keepdims=True), z_BxD, 0).astype(sequence_BxTxD.dtype)
