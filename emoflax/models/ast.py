"""Audio Spectrogram Transformer (Gong et al. 2021, arXiv:2104.01778): a Transformer over patches of the log-mel.

With the weights of a Hugging Face folder (`emoflax/pretrained/`) it computes what `transformers.ASTModel` does, except
that padding, to which the published model attends, is masked.

Shape letters: B clips, T frames, F mels, S steps (patches along time), R rows (patches along frequency), P patch,
N = S * R patches, L = 2 + N tokens, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models.dropout import dropout, split
from emoflax.models.transformer import Layer, layer_norm, run_layers

EPSILON = 1e-12  # of every layer normalisation, as published
SPECIAL = 2  # tokens before the patches: class and distillation


def patches_along(length: int, patch: int, stride: int) -> int:
    """How many whole patches fit."""
    return (length - patch) // stride + 1


class Patches(nnx.Module):
    """Log-mel -> tokens: class, distillation, then overlapping patches step by step, from low to high frequency.

    A patch is projected by a matrix product, because on a CPU the gradient of a strided convolution is slow.
    """

    def __init__(self, mels: int, *, width: int, patch: int, stride: int, max_frames: int, dtype, rngs: nnx.Rngs):
        if mels < patch or max_frames < patch:
            raise UserError(
                f"config.model.ast.patch={patch} is more than config.audio.mels={mels} or "
                f"config.model.ast.max_frames={max_frames}"
            )
        self.patch, self.stride, self.max_frames, self.dtype = patch, stride, max_frames, dtype
        self.steps, self.rows = patches_along(max_frames, patch, stride), patches_along(mels, patch, stride)

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        self.projection = nnx.Linear(patch * patch, width, dtype=dtype, rngs=rngs)
        self.class_embedding, self.distillation_embedding = normal(width), normal(width)
        self.position_embedding = normal(SPECIAL + self.steps * self.rows, width)

    def __call__(self, logmel_BxTxF: jax.Array, frames_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[batch, frames, mels] -> tokens [batch, 2 + steps * rows, width] and their mask.

        A clip's frames are padded with zeros, the training mean, to whole patches; frames beyond `max_frames`, less
        than one patch, are cut off, as published. A clip of length 0 has no valid token.
        """
        clips, frames, _ = logmel_BxTxF.shape
        if frames > self.max_frames + self.patch:
            raise UserError(
                f"config.model.ast.max_frames={self.max_frames}, but there are rows of {frames} frames; raise it, or "
                "lower config.data.max_s"
            )
        steps = min(self._steps(frames), self.steps)
        end = (steps - 1) * self.stride + self.patch
        x = jnp.pad(logmel_BxTxF, ((0, 0), (0, max(0, end - frames)), (0, 0)))
        inside = np.arange(self.patch)[None]
        times_SxP, bands_RxP = (np.arange(n)[:, None] * self.stride + inside for n in (steps, self.rows))
        x_BxSxRxPxP = x[:, times_SxP][..., bands_RxP].transpose(0, 1, 3, 2, 4)  # a patch is [time, frequency]
        h_BxNxD = self.projection(x_BxSxRxPxP.reshape(clips, steps * self.rows, self.patch**2))
        special_2xD = jnp.stack([self.class_embedding[...], self.distillation_embedding[...]]).astype(self.dtype)
        special_Bx2xD = jnp.broadcast_to(special_2xD[None], (clips, *special_2xD.shape))
        positions_LxD = self.position_embedding[: SPECIAL + steps * self.rows].astype(self.dtype)
        tokens_B = jnp.where(frames_B > 0, SPECIAL + self.rows * self._steps(frames_B), 0)
        tokens_BxLxD = jnp.concatenate([special_Bx2xD, h_BxNxD], axis=1) + positions_LxD[None]
        return tokens_BxLxD, valid(tokens_B, tokens_BxLxD.shape[1])

    def _steps(self, frames):
        """Patches that cover so many frames (an int or an array), the last one padded."""
        return 1 + (frames > self.patch) * -((self.patch - frames) // self.stride)


class Ast(nnx.Module):
    """Patches and `layers` Transformer layers, normalised before each part and once at the end.

    Args:
      mels: mel bands.
      width: D.
      layers: how many.
      heads: of each layer's attention; divides the width.
      hidden: units between the two layers of each perceptron.
      patch: frames and mels of a patch.
      stride: frames and mels from one patch to the next.
      max_frames: frames of the longest input.
      dropout: share of each part's output zeroed in training.
    """

    def __init__(
        self,
        mels: int,
        *,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        patch: int,
        stride: int,
        max_frames: int,
        dropout: float,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, self.dropout = width, dropout
        self.stem = Patches(
            mels, width=width, patch=patch, stride=stride, max_frames=max_frames, dtype=dtype, rngs=rngs
        )
        options = {"heads": heads, "hidden": hidden, "dropout": dropout, "epsilon": EPSILON}
        self.layers = nnx.List(Layer(width, norm_first=True, **options, dtype=dtype, rngs=rngs) for _ in range(layers))
        self.norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs)

    def __call__(
        self, logmel_BxTxF: jax.Array, frames_B: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[batch, frames, mels] -> ([batch, 2 + patches, width], mask); zero beyond a clip's last patch."""
        stem_key, layers_key = split(key, 2)
        h_BxLxD, mask_BxL = self.stem(logmel_BxTxF, frames_B)
        h_BxLxD = dropout(h_BxLxD, self.dropout, stem_key)
        h_BxLxD = self.norm(run_layers(self.layers, h_BxLxD, mask_BxL, layers_key))
        return jnp.where(mask_BxL[..., None], h_BxLxD, 0), mask_BxL

    def centres(self, steps: int) -> np.ndarray:
        """Frames: all rows of patches share their step's middle; the class and distillation tokens have nan."""
        step = np.arange(steps - SPECIAL) // self.stem.rows
        return np.concatenate([np.full(SPECIAL, np.nan), step * self.stem.stride + self.stem.patch / 2])
