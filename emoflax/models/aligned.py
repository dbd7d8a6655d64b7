"""Random convolutions summed up part by part of what is said: a view of corpora in which few texts are said by all.

RAVDESS, CREMA-D, EmoDB, SAVEE: actors say the same sentences in every emotion. A clip is aligned to a template of its
text (`alignment.py`), so that the same part of it is the same words: where in the sentence a voice rises or breaks
tells far more than how often it does. Templates come from the training clips; a clip takes the one that fits it best,
so that nobody has to say what is said in it.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.audio import random_kernels
from emoflax.audio.channels import CONTOURS
from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models import alignment, ridge
from emoflax.models.classifier import Statistic
from emoflax.models.functionals import Ridge

# Of responses, whose typical deviation is 1. Not 0: where nothing changes, rounding would say on which side of it.
_LEVELS = (0.1, 0.7)
_CHANGES = 1.0  # within one sound, changes tell more than levels, which are the speaker's and the microphone's
_CEPSTRA = [f"mfcc_{i}" for i in range(1, 14)]
_NOWHERE = 1e2  # every number of a template that no text has: nothing comes near it
_CHUNKS, _WIDTH_MULTIPLE = (1, 8, 64), 64  # rows described at once; frames that their width is a multiple of
_ROW_MULTIPLE = 256  # rows that a template is made of are filled up to


class Aligned(nnx.Module):
    """Log-mels with contours [frames, mels + contours] of each row, 10 ms apart, -> logits [rows, classes].

    Args:
      channels: mel bands and contours.
      states: of each template; a clip of fewer frames leaves some out at the ends.
      parts: equal groups of states, over each of which responses are summed up.
      kernels: random convolutions, of which the share of time above two levels is kept.
      texts: at most so many have templates, the most frequent ones.
      ridges: strengths of the penalty, from which left-out training speakers choose.
    """

    def __init__(
        self, channels: int, *, states: int, parts: int, kernels: int, texts: int, ridges: tuple[float, ...],
        classes: int, dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        if min(states, parts, kernels, texts) < 1 or states % parts:
            raise UserError("config.model.aligned: states, parts, kernels and texts are 1 or more; parts divide states")
        self.mels, self.classes = channels - len(CONTOURS), classes
        self.states, self.parts, self.kernels = states, parts, kernels
        self.template = Statistic(jnp.full((texts, states, 2 * len(_CEPSTRA) + 1), _NOWHERE))
        self.ridge = Ridge(parts * kernels * len(_LEVELS), ridges=ridges, classes=classes, dtype=dtype, rngs=rngs)

    def __call__(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Logits [rows, classes], float32."""
        return self.ridge(self.describe_all(sequences))

    def describe(self, x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        """Share of each part's time in which each kernel responds above each level, [batch, numbers].

        Nothing here has weights: the numbers are what the ridge regression is fitted to.
        """
        state_BxT = self._align(x_BxTxF, frames_B)
        centre, scale = random_kernels.typical(self.mels)
        far = random_kernels.FAR
        z_BxTxF = jnp.clip((x_BxTxF - centre[None, None]) / scale[None, None], -far, far)
        # Two frames make a step of 20 ms. Beyond the clip's end, its last step goes on.
        z_BxTxF, state_BxT = (jnp.pad(a, [(0, 0), (0, a.shape[1] % 2)] + [(0, 0)] * (a.ndim - 2), mode="edge")
                              for a in (z_BxTxF, state_BxT))  # fmt: skip
        steps_B = jnp.maximum(frames_B // 2, 1)
        odd_BxTxF = jnp.where((frames_B > 1)[:, None, None], z_BxTxF[:, 1::2], z_BxTxF[:, ::2])
        z_BxTxF = (z_BxTxF[:, ::2] + odd_BxTxF) / 2
        last_BxT = jnp.minimum(jnp.arange(z_BxTxF.shape[1])[None], steps_B[:, None] - 1)
        z_BxTxF = jnp.take_along_axis(z_BxTxF, last_BxT[..., None], axis=1)
        response_BxTxK = self._convolve(z_BxTxF)
        inside_BxTx1 = valid(steps_B, z_BxTxF.shape[1])[..., None]
        part_BxTxP = jax.nn.one_hot(state_BxT[:, ::2] * self.parts // self.states, self.parts) * inside_BxTx1
        whole_BxTxP = jnp.broadcast_to(inside_BxTx1, part_BxTxP.shape).astype(part_BxTxP.dtype)
        part_BxTxP = jnp.where(part_BxTxP.any(1, keepdims=True), part_BxTxP, whole_BxTxP)  # a part that nobody said
        share_BxTxP = part_BxTxP / part_BxTxP.sum(1, keepdims=True)
        shares = [
            jnp.einsum("btp,btk->bpk", share_BxTxP, (response_BxTxK > level).astype(jnp.float32)) for level in _LEVELS
        ]
        return jnp.stack(shares, axis=1).reshape(len(frames_B), -1)

    def _align(self, x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        """State of every frame, int32 [batch, frames], in the template that fits best."""
        timbre_BxTxD = _timbre(self.mels, x_BxTxF, frames_B)

        def path(text):
            return alignment.best_path(alignment.distances(timbre_BxTxD, self.template[...][text]), frames_B)

        def better(text, best):
            (cost_B, state_BxT), (new_B, new_BxT) = best, path(text)
            return jnp.minimum(cost_B, new_B), jnp.where((new_B < cost_B)[:, None], new_BxT, state_BxT)

        texts = jnp.sum(self.template[...][:, 0, 0] != _NOWHERE)  # most corpora have fewer than there is room for
        return jax.lax.fori_loop(1, texts, better, path(0))[1]

    def _convolve(self, z_BxTxF: jax.Array) -> jax.Array:
        """Responses [batch, steps, kernels]; the first and the last step go on beyond the ends."""
        channel_FxK, tap_SxK, dilation_K = random_kernels.draw(self.kernels, self.mels, _CHANGES)
        order = np.argsort(dilation_K, kind="stable")
        mixed_BxTxK = jnp.einsum("btf,fk->btk", z_BxTxF, channel_FxK[:, order])
        responses = []
        for dilation in np.unique(dilation_K):
            own, reach = dilation_K[order] == dilation, dilation * (random_kernels.TAPS // 2)
            padded = jnp.pad(mixed_BxTxK[..., own], ((0, 0), (reach, reach), (0, 0)), mode="edge")
            taps = tap_SxK[:, order][:, own]
            responses.append(sum(padded[:, i * dilation : i * dilation + z_BxTxF.shape[1]] * tap[None, None]
                                 for i, tap in enumerate(taps)))  # fmt: skip
        return jnp.concatenate(responses, axis=-1)

    def embed(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """What the ridge regression classifies, float32 [rows, numbers]."""
        return self.describe_all(sequences)

    def fit(self, sequences: Sequence[np.ndarray], clips: ridge.Labelled, text_N: np.ndarray) -> ridge.Solution:
        """Takes templates and weights from training rows, [frames, channels] each; `text_N`: '' where unknown."""
        names, counts = np.unique(text_N, return_counts=True)
        most_frequent = names[np.argsort(-counts, kind="stable")][: self.template[...].shape[0]]
        for place, name in enumerate(most_frequent):
            own = [sequences[i] for i in np.flatnonzero(text_N == name)]
            # Rows of no frames fill them up to a common number: one program for folds of about one size.
            rows = _padded(own, -(-len(own) // _ROW_MULTIPLE) * _ROW_MULTIPLE)
            template = _template(self.mels, self.states, *rows)
            self.template[...] = self.template[...].at[place].set(template)
        return self.ridge.fit(self.describe_all(sequences), clips)

    def describe_all(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """`describe` of many rows, [rows, numbers], those of like length together."""
        graph, state = nnx.split(self)
        order = np.argsort([len(x) for x in sequences], kind="stable")
        numbers = np.empty((len(sequences), self.ridge.mean[...].shape[0]), np.float32)
        for begin in range(0, len(order), _CHUNKS[-1]):
            chunk = order[begin : begin + _CHUNKS[-1]]
            count = next(size for size in _CHUNKS if size >= len(chunk))
            numbers[chunk] = _describe(graph, state, *_padded([sequences[i] for i in chunk], count))[: len(chunk)]
        return numbers


def _timbre(mels: int, x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
    first, energy = (mels + CONTOURS.index(name) for name in (_CEPSTRA[0], "energy_db"))
    return alignment.timbre(x_BxTxF[..., first : first + len(_CEPSTRA)], x_BxTxF[..., energy], frames_B)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _template(mels: int, states: int, x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
    return alignment.template(_timbre(mels, x_BxTxF, frames_B), frames_B, states)


@functools.partial(jax.jit, static_argnums=0)
def _describe(graph: nnx.GraphDef, state: nnx.State, x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
    """One program for models of one shape: they differ in `state`."""
    return nnx.merge(graph, state, copy=True).describe(x_BxTxF, frames_B)


def _padded(sequences: Sequence[np.ndarray], count: int) -> tuple[jax.Array, jax.Array]:
    """[count, frames, channels] with zeros behind each row's end, and their frames: few shapes to compile."""
    frames = np.zeros(count, np.int32)
    frames[: len(sequences)] = [len(x) for x in sequences]
    width = _width(-(-int(frames.max()) // _WIDTH_MULTIPLE)) * _WIDTH_MULTIPLE
    x = np.zeros((count, width, sequences[0].shape[1]), np.float32)
    for row, sequence in zip(x, sequences, strict=False):
        row[: len(sequence)] = sequence
    return jnp.asarray(x), jnp.asarray(frames)


def _width(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16 ...: few widths to compile, whatever lengths recordings have."""
    power = 1 << max(0, (count - 1).bit_length() - 1)
    return next(width for width in (power, power * 3 // 2, 2 * power) if width >= count)
