"""Encoders whose sequence is the outputs of several of their layers, side by side.

What tells emotions apart is in the middle of a pretrained encoder rather than at its end (docs/experiments.md), so that
a head on the last output alone has less to begin with. Shape letters: B clips, S steps, D width, L chosen layers.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from emoflax.errors import UserError


@functools.cache  # one class each, so that models of one kind share compiled programs
def side_by_side(encoder: type) -> type:
    """The encoder's class with a further argument `outputs`; parts and parameters have the names that they had there.

    Raises:
      UserError: it has no `states` (see emoflax/models/__init__.py).
    """
    if not hasattr(encoder, "states"):
        raise UserError(f"config.model.layers: encoder {encoder.__name__} does not give the outputs of its layers")

    class SideBySide(encoder):
        """Args: outputs: numbers of the layers, 0 for the input of the first one, as in config.states.layers."""

        width: int

        def __init__(self, *args, outputs: Sequence[int], **settings):
            super().__init__(*args, **settings)
            if max(outputs) > len(self.layers):
                raise UserError(f"config.model.layers={tuple(outputs)}: the encoder has layers 0 to {len(self.layers)}")
            self.outputs, self.width = tuple(outputs), len(outputs) * self.width

        def __call__(
            self, sound: jax.Array, lengths_B: jax.Array, key: jax.Array | None = None
        ) -> tuple[jax.Array, jax.Array]:
            """As the encoder, but [batch, steps, layers * width], without dropout; XLA leaves out higher layers."""
            outputs, mask_BxS = self.states(sound, lengths_B)
            h_BxSxLD = jnp.concatenate([outputs[number] for number in self.outputs], axis=-1)
            return jnp.where(mask_BxS[..., None], h_BxSxLD, 0), mask_BxS

    return SideBySide
