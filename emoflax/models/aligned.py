"""Random convolutions summed up part by part of what is said: a view of corpora in which few texts are said by all.

RAVDESS, CREMA-D, EmoDB, SAVEE: actors say the same sentences in every emotion. A clip is aligned to a template of its
text (`alignment.py`), so that the same part of it is the same words: where in the sentence a voice rises or breaks
tells far more than how often it does. Templates come from the training clips; a clip takes the one that fits it best,
so that nobody has to say what is said in it.
"""

from collections.abc import Mapping, Sequence

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
_CHUNK, _WIDTH_MULTIPLE = 64, 64  # clips described at once; frames that their width is rounded up to


class Aligned(nnx.Module):
    """Log-mels with contours [batch, frames, mels + contours], 10 ms apart, -> logits [batch, classes].

    Args:
      channels: mel bands and contours.
      states: of each template; a clip of fewer frames leaves some out at the ends.
      parts: equal groups of states, over each of which responses are summed up.
      kernels: random convolutions, of which the share of time above two levels is kept.
      rivals: kernels of a group, of which the one that responds highest and the one that responds lowest are kept too,
        as the share of time in which each is that (Hydra: Dempster, Schmidt & Webb 2023, "Hydra: competing
        convolutional kernels for fast and accurate time series classification"); divides `kernels`. 0: no groups.
      texts: at most so many have templates, the most frequent ones.
      ridges: strengths of the penalty, from which left-out training speakers choose.
    """

    normalise = None  # contours have a typical scale, the same for every corpus

    def __init__(
        self, channels: int, *, states: int, parts: int, kernels: int, rivals: int, texts: int,
        ridges: tuple[float, ...], classes: int, dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        if min(states, parts, kernels, texts) < 1 or states % parts:
            raise UserError("config.model.aligned: states, parts, kernels and texts are 1 or more; parts divide states")
        if rivals < 0 or rivals == 1 or (rivals and kernels % rivals):
            raise UserError("config.model.aligned.rivals: 2 or more, and a divisor of kernels; or 0, no competition")
        self.mels, self.classes = channels - len(CONTOURS), classes
        self.states, self.parts, self.kernels, self.rivals = states, parts, kernels, rivals
        self.template = Statistic(jnp.full((texts, states, 2 * len(_CEPSTRA) + 1), _NOWHERE))
        numbers = parts * kernels * (len(_LEVELS) + (2 if rivals else 0))
        self.ridge = Ridge(numbers, ridges=ridges, classes=classes, dtype=dtype, rngs=rngs)

    def __call__(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """Logits [batch, classes], float32, of 'logmel' [batch, frames, channels] and 'frames' [batch]."""
        numbers_BxD = self.describe(batch["logmel"], batch["frames"])
        return self.ridge({"functionals": jax.lax.stop_gradient(numbers_BxD)})  # they have no weights

    def to_log_mel(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """As `Classifier.to_log_mel`: there is nothing to be made of waveforms."""
        return batch

    def describe(self, x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        """Share of each part's time in which each kernel responds in each way (`_events`), [batch, numbers]."""
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
        shares = [jnp.einsum("btp,btk->bpk", share_BxTxP, event_BxTxK.astype(jnp.float32))
                  for event_BxTxK in self._events(response_BxTxK)]  # fmt: skip
        return jnp.stack(shares, axis=1).reshape(len(frames_B), -1)

    def _events(self, response_BxTxK: jax.Array) -> list[jax.Array]:
        """Whether each kernel, at each step, is above each level; is the highest of its rivals; is the lowest."""
        above = [response_BxTxK > level for level in _LEVELS]
        if not self.rivals:
            return above
        # Kernels lie sorted by dilation, so that each of these groups takes its own from all dilations.
        group_BxTxRxG = response_BxTxK.reshape(*response_BxTxK.shape[:2], self.rivals, -1)
        high = (group_BxTxRxG == group_BxTxRxG.max(2, keepdims=True)) & (group_BxTxRxG > _LEVELS[0])
        low = (group_BxTxRxG == group_BxTxRxG.min(2, keepdims=True)) & (group_BxTxRxG < -_LEVELS[0])
        return above + [won.reshape(response_BxTxK.shape) for won in (high, low)]

    def _align(self, x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        """State of every frame, int32 [batch, frames], in the template that fits best."""
        timbre_BxTxD = self._timbre(x_BxTxF, frames_B)

        def fit(template_SxD):
            return alignment.best_path(alignment.distances(timbre_BxTxD, template_SxD), frames_B)

        cost_MxB, state_MxBxT = jax.lax.map(fit, self.template[...])
        return jnp.take_along_axis(state_MxBxT, cost_MxB.argmin(0)[None, :, None], axis=0)[0]

    def _timbre(self, x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        first, energy = (self.mels + CONTOURS.index(name) for name in (_CEPSTRA[0], "energy_db"))
        return alignment.timbre(x_BxTxF[..., first : first + len(_CEPSTRA)], x_BxTxF[..., energy], frames_B)

    def _convolve(self, z_BxTxF: jax.Array) -> jax.Array:
        """Responses [batch, steps, kernels]; the first and the last step go on beyond the ends."""
        channel_FxK, tap_SxK, dilation_K = random_kernels.draw(self.kernels, self.mels, _CHANGES)
        order = np.argsort(dilation_K, kind="stable")
        mixed_BxTxK = jnp.einsum("btf,fk->btk", z_BxTxF, channel_FxK[:, order])
        found = []
        for dilation in np.unique(dilation_K):
            own, reach = dilation_K[order] == dilation, dilation * (random_kernels.TAPS // 2)
            padded = jnp.pad(mixed_BxTxK[..., own], ((0, 0), (reach, reach), (0, 0)), mode="edge")
            taps = tap_SxK[:, order][:, own]
            found.append(sum(padded[:, i * dilation : i * dilation + z_BxTxF.shape[1]] * tap[None, None]
                             for i, tap in enumerate(taps)))  # fmt: skip
        return jnp.concatenate(found, axis=-1)

    def fit(
        self, sequences: Sequence[np.ndarray], label_N: np.ndarray, speaker_N: np.ndarray, text_N: np.ndarray
    ) -> ridge.Solution:
        """Takes templates and weights from training clips, [frames, channels] each; `text_N`: '' where unknown."""
        names, counts = np.unique(text_N, return_counts=True)
        own = names[np.argsort(-counts, kind="stable")][: self.template[...].shape[0]]
        learn = jax.jit(lambda x, frames: alignment.template(self._timbre(x, frames), frames, self.states))
        for place, name in enumerate(own):
            found = learn(*_padded([sequences[i] for i in np.flatnonzero(text_N == name)]))
            self.template[...] = self.template[...].at[place].set(found)
        return self.ridge.fit(self._describe_all(sequences), label_N, speaker_N)

    def _describe_all(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """`describe` of many clips, [clips, numbers], those of like length together."""
        graph, state = nnx.split(self)
        describe = jax.jit(lambda state, *batch: nnx.merge(graph, state, copy=True).describe(*batch))
        order = np.argsort([len(x) for x in sequences], kind="stable")
        found = np.empty((len(sequences), self.ridge.mean[...].shape[0]), np.float32)
        for begin in range(0, len(order), _CHUNK):
            chunk = order[begin : begin + _CHUNK]
            filled = np.resize(chunk, _CHUNK)  # one shape less to compile
            found[chunk] = describe(state, *_padded([sequences[i] for i in filled]))[: len(chunk)]
        return found


def _padded(sequences: Sequence[np.ndarray]) -> tuple[jax.Array, jax.Array]:
    """[clips, frames, channels] with zeros behind each clip's end, and their frames."""
    frames = np.array([len(x) for x in sequences], np.int32)
    width = -(-frames.max() // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
    x = np.zeros((len(sequences), width, sequences[0].shape[1]), np.float32)
    for row, sequence in zip(x, sequences, strict=True):
        row[: len(sequence)] = sequence
    return jnp.asarray(x), jnp.asarray(frames)
