"""Whisper's audio encoder (Radford et al. 2022, arXiv:2212.04356): two convolutions and a Transformer over the log-mel.

With the weights of an openai-whisper checkpoint and `padded`, it computes what `whisper.model.AudioEncoder` does.

Shape letters: B clips, T frames, F mels, S steps of two frames, D width, L layers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models.pooling import Mean
from emoflax.models.transformer import Layer, layer_norm, run_layers

EPSILON = 1e-5  # of every layer normalisation, as published
WINDOW = 3000  # frames of 10 ms, the longest input
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
      padded: whether clips are padded with silence to 30 s, as in Whisper's training. Published weights give their
        published output only with it; every clip then costs what 30 s cost.
    """

    def __init__(
        self,
        mels: int,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        padded: bool,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if width % 2 or width < 4:
            raise UserError(f"config.model.whisper.width={width} must be even and at least 4, for sines and cosines")
        self.width, self.padded = width, padded
        self.stem = Stem(mels, width, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        options = {"heads": heads, "hidden": 4 * width, "dropout": dropout, "epsilon": EPSILON, "key_bias": False}
        self.layers = nnx.List(Layer(width, norm_first=True, **options, dtype=dtype, rngs=rngs) for _ in range(layers))
        self.norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)

    def __call__(
        self, logmel_BxTxF: jax.Array, frames_B: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[batch, frames, mels] -> ([batch, steps, width], mask); a step is two frames, and the mask is the clip's."""
        stem_key, layers_key = (None, None) if key is None else jax.random.split(key)
        h_BxSxD, attended_BxS, mask_BxS = self._begin(logmel_BxTxF, frames_B)
        h_BxSxD = self.dropout(h_BxSxD, deterministic=key is None, rngs=stem_key)
        h_BxSxD = self.norm(run_layers(self.layers, h_BxSxD, attended_BxS, layers_key))
        return jnp.where(mask_BxS[..., None], h_BxSxD, 0), mask_BxS

    def states(self, logmel_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        """Means over each clip's steps of the first layer's input and of every layer's output.

        float32 [batch, 1 + layers, width]; the last is normalised, as the decoder's input is.
        """
        h_BxSxD, attended_BxS, mask_BxS = self._begin(logmel_BxTxF, frames_B)
        mean = Mean(self.width)
        means = [mean(h_BxSxD, mask_BxS)]
        for layer in self.layers:
            h_BxSxD = layer(h_BxSxD, attended_BxS)
            means.append(mean(h_BxSxD, mask_BxS))
        means[-1] = mean(self.norm(h_BxSxD), mask_BxS)
        return jnp.stack(means, axis=1).astype(jnp.float32)

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
        end_B = frames_B = jnp.minimum(frames_B, WINDOW)
        if self.padded:
            logmel_BxTxF = jnp.pad(logmel_BxTxF[:, :WINDOW], ((0, 0), (0, max(0, WINDOW - frames)), (0, 0)))
            logmel_BxTxF = _fill_with_silence(logmel_BxTxF, frames_B)
            end_B = jnp.full_like(frames_B, WINDOW)
        h_BxSxD = self.stem(logmel_BxTxF, end_B)
        attended_BxS, mask_BxS = (valid(-(-n_B // 2), h_BxSxD.shape[1]) for n_B in (end_B, frames_B))
        return h_BxSxD, attended_BxS, mask_BxS


def _fill_with_silence(logmel_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
    inside_BxTx1 = valid(frames_B, logmel_BxTxF.shape[1])[..., None]
    lowest = jnp.finfo(logmel_BxTxF.dtype).min
    maximum_B = jnp.max(logmel_BxTxF, axis=(1, 2), initial=lowest, where=inside_BxTx1)
    silence_B = jnp.where(frames_B > 0, jnp.maximum(maximum_B - RANGE, LOWEST), 0)
    return jnp.where(inside_BxTx1, logmel_BxTxF, silence_B[:, None, None])


def _neighbours(h_BxTxD: jax.Array, stride: int = 1) -> jax.Array:
    """Every stride-th step between the one before and the one after it, [batch, steps / stride, 3 * width]."""
    steps = h_BxTxD.shape[1]
    padded = jnp.pad(h_BxTxD, ((0, 0), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, shift : shift + steps : stride] for shift in range(3)], axis=-1)


def _gelu(h: jax.Array) -> jax.Array:
    return jax.nn.gelu(h, approximate=False)
