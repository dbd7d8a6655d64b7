"""Test-time augmentation: a clip is predicted in several fixed variants, whose log-probabilities are averaged."""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from emoflax.audio import augment
from emoflax.batch import Batch
from emoflax.errors import UserError

_WIDTH_MULTIPLE = 8  # frames


@dataclasses.dataclass(frozen=True)
class TestTimeAugmentation:
    """Every speed with every band shift: the fields of config.evaluate.

    Attributes:
      speeds: the log-mel is read this many times as fast.
      band_shifts: each band is read from so many bands above; contours stay.
      bands: mel bands at the front of each frame, before the contours. None: every channel is a mel band.
    """

    speeds: tuple[float, ...] = (1.0,)
    band_shifts: tuple[float, ...] = (0.0,)
    bands: int | None = None

    def __post_init__(self):
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise UserError(f"config.evaluate.speeds={self.speeds} must be from 0.5 to 2; (1.0,): off")
        if not self.band_shifts or not all(abs(shift) <= 10 for shift in self.band_shifts):
            raise UserError(f"config.evaluate.band_shifts={self.band_shifts} must be from -10 to 10; (0.0,): off")

    @property
    def on(self) -> bool:
        return self.speeds != (1.0,) or self.band_shifts != (0.0,)

    def log_probabilities(self, batch: Batch, logits_of: Callable[[Batch], jax.Array]) -> jax.Array:
        """Mean of the variants' log-probabilities [batch, classes]; `logits_of` predicts one batch."""
        # Wide enough for the slowest variant: how a batch is padded must not decide whether a clip is cut.
        width = -(-batch.logmel.shape[1] // min(*self.speeds, 1.0))
        width = int(-(-width // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE)

        def of_variant(variant: tuple[jax.Array, jax.Array]) -> jax.Array:
            return jax.nn.log_softmax(logits_of(self._variant(batch, *variant, width)))

        # One after the other: one compiled program, and the memory of one variant.
        variants = np.array(list(itertools.product(self.speeds, self.band_shifts)), np.float32)
        return jax.lax.map(of_variant, (variants[:, 0], variants[:, 1])).mean(0)

    def _variant(self, batch: Batch, speed: jax.Array, shift: jax.Array, width: int) -> Batch:
        x, frames = batch.logmel, batch.frames
        whole = frames.astype(jnp.float32)
        x, frames = augment.resample_time(x, frames, 0 * whole, whole, jnp.broadcast_to(speed, frames.shape), width)
        mels, contours = x[..., : self.bands], x[..., self.bands :] if self.bands else x[..., :0]
        place_BxF = jnp.broadcast_to(jnp.arange(mels.shape[-1])[None] + shift, (len(frames), mels.shape[-1]))
        mels = augment.move_bands(mels, place_BxF)
        return batch.replace(logmel=jnp.concatenate([mels, contours], axis=-1), frames=frames)
