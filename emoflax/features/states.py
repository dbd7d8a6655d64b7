"""A frozen pretrained encoder: statistics over a clip's time of every layer's output; for training and prediction."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax import pretrained
from emoflax.models import states

_WIDTH_MULTIPLE = 64  # frames that a batch's width is rounded up to: each width is compiled


@dataclasses.dataclass(frozen=True)
class StateEncoder:
    """Log-mels (or frames of the waveform) [frames, mels] of clips -> states.

    Attributes:
      audio: fields of config.audio that it was trained with.
      shape: of a clip's states, (layers, statistics, width); layer 0 is the input of the first one.
      window: the most frames that the encoder takes at once.
      batch: clips that go through it at once.
      run: its compiled program.
    """

    audio: dict[str, Any]
    shape: tuple[int, int, int]
    window: int
    batch: int
    run: Callable[[np.ndarray, np.ndarray], jax.Array]

    def __call__(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [clips, layers, statistics, width] (`models.states.summarise`).

        A clip longer than a window is split, and the statistics of its windows are averaged, weighted by length.
        """
        windows = [(clip, start) for clip, frames in enumerate(clips) for start in range(0, len(frames), self.window)]
        lengths = np.array([min(self.window, len(clips[clip]) - start) for clip, start in windows])
        total = np.zeros((len(clips), *self.shape), np.float32)
        order = np.argsort(lengths, kind="stable")  # by length, so that little padding is computed
        for chosen in (order[start : start + self.batch] for start in range(0, len(order), self.batch)):
            width = min(self.window, -(-int(lengths[chosen].max()) // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE)
            sound = np.zeros((self.batch, width, clips[0].shape[1]), np.float32)
            frames = np.zeros(self.batch, np.int32)
            for row, window in enumerate(chosen):
                (clip, start), n = windows[window], lengths[window]
                sound[row, :n], frames[row] = clips[clip][start : start + n], n
            summaries = np.asarray(self.run(sound, frames))
            for row, window in enumerate(chosen):
                clip = windows[window][0]
                total[clip] += summaries[row] * (lengths[window] / len(clips[clip]))
        return total


def load(name: str, weights: str, *, silence_s: float, parts: int, batch: int) -> StateEncoder:
    """The encoder of that name in the registry with those weights.

    Args:
      weights: a path or a name, as `pretrained.load` takes them.
      silence_s: for Whisper, silence behind each clip; others have none.
      parts: of `models.states.summarise`.

    Raises:
      UserError: the weights are not there, or are of something else.
    """
    changes = {"silence_s": silence_s} if name == "whisper" else {}
    encoder = pretrained.audio_encoder(name, weights, **changes)
    graph, params = nnx.split(encoder)

    @jax.jit
    def run(params: nnx.State, sound_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        outputs, mask_BxS = nnx.merge(graph, params).states(sound_BxTxF, frames_B)
        return states.summarise(outputs, mask_BxS, parts)

    shape = (1 + len(encoder.layers), states.count(parts), encoder.width)
    audio = front_end(name, weights)
    return StateEncoder(audio, shape, encoder.window, batch, functools.partial(run, jax.tree.map(jnp.asarray, params)))


def front_end(name: str, weights: str) -> dict[str, Any]:
    """The fields of config.audio that an encoder was trained with."""
    fields = pretrained.fields(name, weights).items()
    decided = {field.removeprefix("audio."): value for field, value in fields if field.startswith("audio.")}
    return decided | {"contours": False}
