"""A linear view of the statistics over a clip that precompute calls functionals, solved instead of descended to.

On thousands of functionals of 20 speakers, ridge regression generalises better than cross-entropy does, and a fit takes
seconds. Each functional is scaled by how much of it the labels explain, so that the penalty spares the telling ones.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.models import ridge
from emoflax.models.classifier import Statistic

_FAR = 5.0  # standard deviations; what is further off says no more than that
_LEAST_SCALE = 1e-3


class Ridge(nnx.Module):
    """Functionals [batch, functionals] -> logits [batch, classes]; `fit` solves it, and steps may go on from there.

    Args:
      functionals: how many there are.
      ridges: strengths of the penalty, from which left-out training speakers choose.
    """

    normalise = None  # of log-mels, which it does not see

    def __init__(self, functionals: int, *, ridges: tuple[float, ...], classes: int, dtype, rngs: nnx.Rngs):
        self.classes, self.ridges = classes, tuple(ridges)
        self.mean = Statistic(jnp.zeros(functionals))
        self.std = Statistic(jnp.ones(functionals))
        self.logits = nnx.Linear(functionals, classes, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs)

    def __call__(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """Logits [batch, classes], float32, of 'functionals' [batch, functionals]; nothing here is random."""
        z_BxD = (batch["functionals"] - self.mean[...][None]) / self.std[...][None]
        return self.logits(jnp.clip(z_BxD, -_FAR, _FAR)).astype(jnp.float32)

    def to_log_mel(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """As `Classifier.to_log_mel`: there is nothing to be made of waveforms."""
        return batch

    def fit(self, functionals_NxD: np.ndarray, label_N: np.ndarray, speaker_N: np.ndarray) -> ridge.Solution:
        """Takes mean, deviation and weights from training rows.

        The scale knows the labels of all of them, so the UAR of left-out speakers comes out a little high: on shuffled
        labels of 16 speakers and 8 classes up to 19 % instead of 12.5 %.
        """
        mean, std = functionals_NxD.mean(0), functionals_NxD.std(0)
        std = std + 1e-6 * np.abs(mean) + 1e-9  # a constant stays one
        z_NxD = np.clip((functionals_NxD - mean) / std, -_FAR, _FAR)
        scale = np.sqrt(ridge.correlation_ratio(z_NxD, label_N) + _LEAST_SCALE)
        solution = ridge.solve(z_NxD * scale, label_N, self.classes, speaker_N, self.ridges)
        self.mean[...], self.std[...] = jnp.asarray(mean), jnp.asarray(std)
        self.logits.kernel[...] = jnp.asarray(scale[:, None] * solution.kernel)
        return solution
