"""What goes through a model together: rows of clips, one type from the shards to the loss."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Arrays [batch, ...] of the same rows; a row is one window of one clip. None: the model does without the field.

    A pytree, in which None is an empty subtree: `jax.tree.map` visits the arrays that are there. All rows of a bucket
    are a Batch, too, [rows, ...]. Sequences are zero beyond the row's length, and a length of 0 means that the clip
    lacks that modality. Waveforms stand in the place of log-mels until the model makes those of them.

    Attributes:
      label: int32 [batch], the class.
      weight: float32 [batch], of the row's loss; 0 for rows that pad the last batch.
      logmel: float32 [batch, frames, channels], in dB, or in the unit of Whisper's or AST's front end
        (`audio.frontend.UNIT_DB`); mel bands, then contours if there are any.
      frames: int32 [batch], length of each log-mel.
      wave: int16 or float32 [batch, samples]; times `scale`, full scale is 1.
      samples: int32 [batch], length of each waveform.
      scale: float32 [batch], what waveforms are to be multiplied by.
      tokens: int32 [batch, tokens], ids of words or subwords.
      n_tokens: int32 [batch], length of each sequence of tokens.
      target: float32 [batch, classes], probabilities that the loss compares with; the train step makes them of labels.
      tempo: float32 [batch], how many times too fast a waveform is after its pitch was shifted; `WaveAugmentation`
        leaves it for `Augmentation`, which undoes it on the log-mel.
    """

    label: jax.Array | None = None
    weight: jax.Array | None = None
    logmel: jax.Array | None = None
    frames: jax.Array | None = None
    wave: jax.Array | None = None
    samples: jax.Array | None = None
    scale: jax.Array | None = None
    tokens: jax.Array | None = None
    n_tokens: jax.Array | None = None
    target: jax.Array | None = None
    tempo: jax.Array | None = None

    def replace(self, **fields: Any) -> "Batch":
        """A copy with other values in these fields.

        Raises:
          TypeError: there is no field of that name.
        """
        return dataclasses.replace(self, **fields)

    def arrays(self) -> dict[str, Any]:
        """Name -> array of the fields that are not None."""
        return {name: values for name, values in vars(self).items() if values is not None}
