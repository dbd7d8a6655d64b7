"""A frozen pretrained encoder: statistics over a clip's time of every layer's output; for training and prediction.

Of the sound, where a clip is log-mels or frames of the waveform, and of the words, where it is the ids of its tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax import pretrained
from emoflax.data import dataset, subwords
from emoflax.data.rows import round_up
from emoflax.models import states

# Frames, and tokens, that a batch's width is rounded up to: each width is compiled.
_FRAMES_MULTIPLE, _TOKENS_MULTIPLE = 64, dataset.WIDTH_MULTIPLE


@dataclasses.dataclass(frozen=True)
class StateEncoder:
    """Log-mels (or frames of the waveform) [frames, mels], or token ids [tokens], of clips -> states.

    Attributes:
      audio: fields of config.audio that it was trained with; none for an encoder of words.
      shape: of a clip's states, (layers, statistics, width); layer 0 is the input of the first one.
      window: the most frames or tokens that the encoder takes at once.
      multiple: frames or tokens that a batch's width is rounded up to.
      batch: clips that go through it at once.
      run: its compiled program.
    """

    audio: dict[str, Any]
    shape: tuple[int, int, int]
    window: int
    multiple: int
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
            width = min(self.window, round_up(int(lengths[chosen].max()), self.multiple))
            sequences = np.zeros((self.batch, width, *clips[0].shape[1:]), clips[0].dtype)
            filled = np.zeros(self.batch, np.int32)
            for row, window in enumerate(chosen):
                (clip, start), n = windows[window], lengths[window]
                sequences[row, :n], filled[row] = clips[clip][start : start + n], n
            summaries = np.asarray(self.run(sequences, filled))
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
    encoder = pretrained.encoder_alone(name, weights, **changes)
    graph, params = nnx.split(encoder)

    @jax.jit
    def run(params: nnx.State, sequences: jax.Array, lengths_B: jax.Array) -> jax.Array:
        outputs, mask_BxS = nnx.merge(graph, params).states(sequences, lengths_B)
        return states.summarise(outputs, mask_BxS, parts)

    shape = (1 + len(encoder.layers), states.count(parts), encoder.width)
    audio = front_end(name, weights)
    multiple = _FRAMES_MULTIPLE if audio else _TOKENS_MULTIPLE
    program = functools.partial(run, jax.tree.map(jnp.asarray, params))
    return StateEncoder(audio, shape, encoder.window, multiple, batch, program)


def front_end(name: str, weights: str) -> dict[str, Any]:
    """The fields of config.audio that an encoder was trained with; none for an encoder of words."""
    fields = pretrained.fields(name, weights).items()
    decided = {field.removeprefix("audio."): value for field, value in fields if field.startswith("audio.")}
    return decided | {"contours": False} if decided else {}


def token_ids(lines: Sequence[Sequence[str]], tokenizer: str) -> list[np.ndarray]:
    """Tokens of every text -> ids, int32 [tokens], as an encoder of words takes them; no token: one unknown word."""
    known = _ids_of(tokenizer)
    return [np.array([known.get(token, dataset.UNK) for token in line] or [dataset.UNK], np.int32) for line in lines]


@functools.lru_cache(maxsize=2)
def _ids_of(tokenizer: str) -> dict[str, int]:
    """Token -> id, for every token of a tokenizer; reading it takes a tenth of a second."""
    return {token: place for place, token in enumerate(subwords.vocabulary(tokenizer), start=dataset.UNK + 1)}
