"""A closed-form linear classifier of the statistics over a clip that `features.functionals` makes.

On thousands of functionals of 20 speakers, ridge regression generalises better than cross-entropy does, and a fit takes
seconds. Each functional is scaled by how much of it the labels explain, its correlation ratio, to a power, so that the
penalty spares those that tell most.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.models import ridge
from emoflax.models.classifier import Statistic

_FAR = 5.0  # standard deviations, at which functionals are clipped
_LEAST_SCALE = 1e-3


class Ridge(nnx.Module):
    """Functionals [rows, functionals] -> logits [rows, classes]; `fit` solves for the weights.

    Args:
      functionals: how many there are.
      ridges: strengths of the penalty, from which left-out training speakers choose.
      scale_power: of the correlation ratio, that functionals are scaled by.
    """

    def __init__(
        self, functionals: int, *, ridges: tuple[float, ...], scale_power: float = 0.5, classes: int, dtype,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.classes, self.ridges, self.scale_power = classes, tuple(ridges), scale_power
        self.mean = Statistic(jnp.zeros(functionals))
        self.std = Statistic(jnp.ones(functionals))
        self.logits = nnx.Linear(functionals, classes, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs)

    def __call__(self, functionals_NxD: np.ndarray) -> np.ndarray:
        """Logits [rows, classes], float32."""
        z_NxD = (functionals_NxD - np.asarray(self.mean[...])) / np.asarray(self.std[...])
        kernel_DxC, bias_C = np.asarray(self.logits.kernel[...]), np.asarray(self.logits.bias[...])
        return np.clip(z_NxD, -_FAR, _FAR).astype(np.float32) @ kernel_DxC + bias_C

    def logits_in_program(self, functionals_NxD: jax.Array) -> jax.Array:
        """As `__call__`, as part of a compiled program."""
        z_NxD = (functionals_NxD - self.mean[...][None]) / self.std[...][None]
        z_NxD = jnp.clip(z_NxD, -_FAR, _FAR)
        return jnp.matmul(z_NxD, self.logits.kernel[...], precision="highest") + self.logits.bias[...][None]

    def embed(self, functionals_NxD: np.ndarray) -> np.ndarray:
        """The functionals themselves, float32 [rows, functionals]: there is nothing between them and the logits."""
        return np.asarray(functionals_NxD, np.float32)

    def fit(
        self, functionals_NxD: np.ndarray, clips: ridge.Labelled, text_N: Sequence[str] = (),
        taken_D: np.ndarray | bool = True,
    ) -> ridge.Solution:  # fmt: skip
        """Takes mean, deviation and weights from training rows; texts play no part.

        Args:
          taken_D: bool [functionals]; the others get weights of 0.

        The scale depends on the labels of all of them, so the UAR of left-out speakers comes out a little high: on
        shuffled labels of 16 speakers and 8 classes up to 19 % instead of 12.5 %.
        """
        mean, std = ridge.moments(functionals_NxD)
        std = std + 1e-6 * np.abs(mean) + 1e-9  # a constant stays one
        z_NxD = np.empty_like(functionals_NxD, np.float32)  # the one copy of all rows
        for rows in ridge.row_blocks(len(z_NxD)):
            z_NxD[rows] = np.clip((functionals_NxD[rows] - mean) / std, -_FAR, _FAR)
        explained_D = ridge.correlation_ratio(z_NxD, clips.label_N)
        scale = np.where(taken_D, (explained_D + _LEAST_SCALE) ** self.scale_power, 0)
        z_NxD *= scale.astype(np.float32)
        solution = ridge.solve(z_NxD, clips, self.ridges)
        self.mean[...], self.std[...] = jnp.asarray(mean), jnp.asarray(std)
        self.logits.kernel[...] = jnp.asarray(scale[:, None] * solution.kernel)
        self.logits.bias[...] = jnp.asarray(solution.bias)
        return solution
