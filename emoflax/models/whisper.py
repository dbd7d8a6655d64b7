"""Whisper's audio encoder (Radford et al. 2022, arXiv:2212.04356): two convolutions and a Transformer over the log-mel.

With the weights of an openai-whisper checkpoint and 30 s of silence, it computes what `whisper.model.AudioEncoder`
does.

Shape letters: B clips, T frames, F mels, S steps of two frames, D width, L layers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models.dropout import Rate, dropout, split
from emoflax.models.transformer import Layer, layer_norm, layer_outputs, run_layers

EPSILON = 1e-5  # of every layer normalisation, as published
WINDOW = 3000  # frames of 10 ms, the longest input
_FRAMES_PER_S = 100
# Value of silence in a clip's log-mel: RANGE under its maximum, but at least LOWEST, which stands for no power at all.
# See emoflax/features/whisper_mel.py.
RANGE, LOWEST = 2.0, -1.5
LONGEST_WAVE = 10_000  # of the sinusoids that mark positions, in steps and 1 / (2 pi)


def sinusoids(steps: int, width: int) -> np.ndarray:
    """Positions as sines and cosines of geometrically spaced wavelengths, float32 [steps, width] (width even)."""
    rate = np.exp(-np.log(LONGEST_WAVE) / (width // 2 - 1) * np.arange(width // 2, dtype=np.float32))
    angle = np.arange(steps, dtype=np.float32)[:, None] * rate[None].astype(np.float32)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


class Stem(nnx.Module):
    """Two convolutions over three neighbours in time with GELU, the second of stride 2, and positions.

    A convolution along one axis is written as one matrix product of shifted frames.
    """

    def __init__(self, mels: int, width: int, *, dtype, rngs: nnx.Rngs):
        self.conv1 = nnx.Linear(3 * mels, width, dtype=dtype, rngs=rngs)
        self.conv2 = nnx.Linear(3 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, logmel_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        """[batch, frames, mels], zero beyond each clip's end -> [batch, steps, width]."""
        inside_BxTx1 = valid(frames_B, logmel_BxTxF.shape[1])[..., None]
        # Zeros beyond a clip's end before each convolution, as if the clip were alone in its batch.
        h_BxTxD = jnp.where(inside_BxTx1, _gelu(self.conv1(_neighbours(logmel_BxTxF))), 0)
        h_BxSxD = _gelu(self.conv2(_neighbours(h_BxTxD, stride=2)))
        return h_BxSxD + jnp.asarray(sinusoids(*h_BxSxD.shape[1:]), h_BxSxD.dtype)[None]


class Whisper(nnx.Module):
    """Stem, `layers` Transformer layers, normalised before each part and once at the end.

    Args:
      mels: mel bands.
      width: D.
      layers: how many.
      heads: of each layer's attention; divides the width.
      dropout: share of each part's output zeroed in training; Whisper itself had none.
      silence_s: silence that follows each clip, up to 30 s in all. Whisper was trained with clips filled up to 30 s:
        published weights give their published output only with 30, and every clip then costs what 30 s cost.
    """

    def __init__(
        self,
        mels: int,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        silence_s: float,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if width % 2 or width < 4:
            raise UserError(f"config.model.whisper.width={width} must be even and at least 4, for sines and cosines")
        self.width, self.window = width, WINDOW
        self.silence = min(WINDOW, round(silence_s * _FRAMES_PER_S))
        self.stem = Stem(mels, width, dtype=dtype, rngs=rngs)
        self.dropout = Rate.of(dropout)
        options = {"heads": heads, "hidden": 4 * width, "dropout": dropout, "epsilon": EPSILON, "key_bias": False}
        self.layers = nnx.List(Layer(width, norm_first=True, **options, dtype=dtype, rngs=rngs) for _ in range(layers))
        self.norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)

    def __call__(
        self, logmel_BxTxF: jax.Array, frames_B: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[batch, frames, mels] -> ([batch, steps, width], mask); a step is two frames, and the mask is the clip's."""
        stem_key, layers_key = split(key, 2)
        h_BxSxD, attended_BxS, mask_BxS = self._begin(logmel_BxTxF, frames_B)
        h_BxSxD = dropout(h_BxSxD, self.dropout, stem_key)
        h_BxSxD = self.norm(run_layers(self.layers, h_BxSxD, attended_BxS, layers_key))
        return jnp.where(mask_BxS[..., None], h_BxSxD, 0), mask_BxS

    def states(self, logmel_BxTxF: jax.Array, frames_B: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """`layer_outputs` of the clips, and the mask of their own steps."""
        h_BxSxD, attended_BxS, mask_BxS = self._begin(logmel_BxTxF, frames_B)
        return layer_outputs(self.layers, h_BxSxD, attended_BxS, self.norm), mask_BxS

    def centres(self, steps: int) -> np.ndarray:
        """The frame in the middle of each step."""
        return 2.0 * np.arange(steps)

    def _begin(self, logmel_BxTxF: jax.Array, frames_B: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The stem's output, the mask of the steps that are attended to, and the mask of the clip's steps."""
        frames = logmel_BxTxF.shape[1]
        # A bucket's width may exceed the longest clip by a few frames of padding.
        if frames >= WINDOW + 8:
            raise UserError(
                f"Whisper's input is {WINDOW / 100:g} s long at most, not {frames / 100:g} s; lower config.data.max_s"
            )
        frames_B = jnp.minimum(frames_B, WINDOW)
        end_B = jnp.where(frames_B > 0, jnp.minimum(frames_B + self.silence, WINDOW), 0)
        if self.silence:
            width = min(WINDOW, frames + self.silence)
            logmel_BxTxF = jnp.pad(logmel_BxTxF[:, :WINDOW], ((0, 0), (0, max(0, width - frames)), (0, 0)))
            logmel_BxTxF = _fill_with_silence(logmel_BxTxF, frames_B, end_B)
        h_BxSxD = self.stem(logmel_BxTxF, end_B)
        attended_BxS, mask_BxS = (valid(-(-n_B // 2), h_BxSxD.shape[1]) for n_B in (end_B, frames_B))
        return h_BxSxD, attended_BxS, mask_BxS


def _fill_with_silence(logmel_BxTxF: jax.Array, frames_B: jax.Array, end_B: jax.Array) -> jax.Array:
    """Silence from each clip's end up to `end_B`, zero beyond it."""
    inside_BxTx1, filled_BxTx1 = (valid(n_B, logmel_BxTxF.shape[1])[..., None] for n_B in (frames_B, end_B))
    lowest = jnp.finfo(logmel_BxTxF.dtype).min
    maximum_B = jnp.max(logmel_BxTxF, axis=(1, 2), initial=lowest, where=inside_BxTx1)
    silence_Bx1x1 = jnp.maximum(maximum_B - RANGE, LOWEST)[:, None, None]
    return jnp.where(inside_BxTx1, logmel_BxTxF, jnp.where(filled_BxTx1, silence_Bx1x1, 0))


def _neighbours(h_BxTxD: jax.Array, stride: int = 1) -> jax.Array:
    """Every stride-th step between the one before and the one after it, [batch, steps / stride, 3 * width]."""
    steps = h_BxTxD.shape[1]
    padded = jnp.pad(h_BxTxD, ((0, 0), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, shift : shift + steps : stride] for shift in range(3)], axis=-1)


def _gelu(h: jax.Array) -> jax.Array:
    return jax.nn.gelu(h, approximate=False)
