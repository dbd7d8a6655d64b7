"""Encoders of the waveform itself: convolutions, then a Transformer.

The network is that of wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477). HuBERT (Hsu et al. 2021, arXiv:2106.07447)
is the same one trained otherwise; data2vec (Baevski et al. 2022, arXiv:2202.03555) has several convolutions for
positions; WavLM, which adds a bias to the attention, is in wavlm.py. With the weights of a Hugging Face folder
(`emoflax/pretrained/`) they compute what `transformers` computes of one clip. Padding is masked everywhere, also in the
statistics over time, where the published models count it.

Shape letters: B clips, T frames, H samples of a frame, W samples, S steps, C channels, D width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.audio.wave_frames import WAVE_FRAME
from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models.dropout import Rate, dropout, split
from emoflax.models.transformer import Attention, Layer, layer_norm, layer_outputs, run_layers

EPSILON = 1e-5  # of every normalisation inside the network, as published
WAVE_EPSILON = 1e-7  # added to a clip's variance when its waveform is normalised, as published
NORMS = ("group", "layer")
WINDOW = 1500  # frames of 20 ms, the longest clip that states are computed of at once; attention grows with its square


class OverTime(nnx.Module):
    """Each channel to mean 0 and deviation 1 over the clip's own steps, then a trained scale and bias.

    What PyTorch calls a GroupNorm with one group per channel, but that padding does not count.
    """

    def __init__(self, channels: int):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))

    def __call__(self, h_BxSxC: jax.Array, steps_B: jax.Array) -> jax.Array:
        mask_BxSx1 = valid(steps_B, h_BxSxC.shape[1])[..., None]
        normal_BxSxC = _standardised(h_BxSxC.astype(jnp.float32), mask_BxSx1, EPSILON)
        return (normal_BxSxC * self.scale[...][None, None] + self.bias[...][None, None]).astype(h_BxSxC.dtype)


class Convolution(nnx.Module):
    """A strided convolution along time as one matrix product of shifted steps, normalised, and GELU.

    Args:
      norm: 'group' (over time), 'layer' (over channels) or '' (none).
    """

    def __init__(
        self, channels: int, width: int, kernel: int, stride: int, *, norm: str, bias: bool, dtype, rngs: nnx.Rngs
    ):
        self.kernel, self.stride = kernel, stride
        self.linear = nnx.Linear(kernel * channels, width, use_bias=bias, dtype=dtype, rngs=rngs)
        self.over_time = OverTime(width) if norm == "group" else None
        self.norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs) if norm == "layer" else None

    def __call__(self, h_BxWxC: jax.Array, steps_B: jax.Array) -> jax.Array:
        """[batch, steps, channels] -> [batch, fewer steps, width], of which the first `steps_B` are the clip's own."""
        last = (self.steps(h_BxWxC.shape[1]) - 1) * self.stride + 1
        shifted = [h_BxWxC[:, shift : shift + last : self.stride] for shift in range(self.kernel)]
        h_BxSxD = self.linear(jnp.concatenate(shifted, axis=-1))
        if self.over_time:
            h_BxSxD = self.over_time(h_BxSxD, steps_B)
        return _gelu(self.norm(h_BxSxD) if self.norm else h_BxSxD)

    def steps(self, length):
        """Whole windows in a sequence of that length (an int or an array)."""
        return (length - self.kernel) // self.stride + 1


class Position(nnx.Module):
    """A convolution over many neighbouring steps, in groups of channels, that marks where in the clip a step is.

    Args:
      norm: whether its output is normalised, without trained parameters (data2vec).
    """

    def __init__(self, width: int, kernel: int, groups: int, *, norm: bool, dtype, rngs: nnx.Rngs):
        around = ((kernel // 2, (kernel - 1) // 2),)
        self.norm = norm
        self.convolution = nnx.Conv(
            width, width, (kernel,), padding=around, feature_group_count=groups, dtype=dtype, rngs=rngs
        )

    def __call__(self, h_BxSxD: jax.Array, mask_BxSx1: jax.Array) -> jax.Array:
        h_BxSxD = self.convolution(jnp.where(mask_BxSx1, h_BxSxD, 0))
        if self.norm:
            mean, variance = (of(h_BxSxD, axis=-1, keepdims=True) for of in (jnp.mean, jnp.var))
            h_BxSxD = (h_BxSxD - mean) * jax.lax.rsqrt(variance + EPSILON)
        return _gelu(h_BxSxD)


class Stem(nnx.Module):
    """Everything before the layers: convolutions, projection to the width, positions; arguments of `WaveEncoder`."""

    def __init__(
        self,
        width: int,
        *,
        channels: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        extractor_norm: str,
        extractor_bias: bool,
        projection_norm: bool,
        positions: Sequence[int],
        positions_norm: bool,
        normalise: bool,
        norm_first: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        if not len(channels) == len(kernels) == len(strides) or extractor_norm not in NORMS:
            raise UserError(
                "an encoder of waveforms needs as many channels as kernels and strides, and extractor_norm from: "
                f"{', '.join(NORMS)}"
            )
        kernel, groups, count = positions
        if width % groups:
            raise UserError(f"config.model: positions in {groups} groups do not divide a width of {width}")
        self.normalise, self.dtype = normalise, dtype
        sizes = zip((1, *channels), channels, kernels, strides, strict=False)
        norms = (extractor_norm, *([extractor_norm if extractor_norm == "layer" else ""] * (len(channels) - 1)))
        options = {"dtype": dtype, "rngs": rngs}
        self.convolutions = nnx.List(
            Convolution(*size, norm=norm, bias=extractor_bias, **options)
            for size, norm in zip(sizes, norms, strict=True)
        )
        self.projection_norm = layer_norm(channels[-1], EPSILON, **options) if projection_norm else None
        self.projection = nnx.Linear(channels[-1], width, **options)
        self.positions = nnx.List(Position(width, kernel, groups, norm=positions_norm, **options) for _ in range(count))
        self.norm = None if norm_first else layer_norm(width, EPSILON, **options)

    @property
    def span(self) -> int:
        """Samples that one step is made of."""
        samples = 1
        for convolution in reversed(self.convolutions):
            samples = (samples - 1) * convolution.stride + convolution.kernel
        return samples

    @property
    def stride(self) -> int:
        """Samples from one step to the next."""
        return int(np.prod([convolution.stride for convolution in self.convolutions]))

    def __call__(self, wave_BxW: jax.Array, samples_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[batch, samples] -> ([batch, steps, width], mask). A clip shorter than one step is filled up with zeros."""
        wave_BxW = jnp.pad(wave_BxW, ((0, 0), (0, max(0, self.span - wave_BxW.shape[1]))))
        inside_BxW = valid(samples_B, wave_BxW.shape[1])
        wave_BxW = jnp.where(inside_BxW, wave_BxW, 0)
        if self.normalise:
            wave_BxW = _standardised(wave_BxW, inside_BxW, WAVE_EPSILON)
        steps_B = jnp.where(samples_B > 0, jnp.maximum(samples_B, self.span), 0)
        h_BxSxC = wave_BxW[..., None].astype(self.dtype)
        for convolution in self.convolutions:
            steps_B = jnp.maximum(convolution.steps(steps_B), 0)
            h_BxSxC = convolution(h_BxSxC, steps_B)
        mask_BxS = valid(steps_B, h_BxSxC.shape[1])
        h_BxSxD = self.projection(self.projection_norm(h_BxSxC) if self.projection_norm else h_BxSxC)
        return self._with_positions(jnp.where(mask_BxS[..., None], h_BxSxD, 0), mask_BxS[..., None]), mask_BxS

    def _with_positions(self, h_BxSxD: jax.Array, mask_BxSx1: jax.Array) -> jax.Array:
        position_BxSxD = h_BxSxD
        for position in self.positions:
            position_BxSxD = position(position_BxSxD, mask_BxSx1)
        h_BxSxD = h_BxSxD + position_BxSxD
        return self.norm(h_BxSxD) if self.norm else h_BxSxD


class WaveEncoder(nnx.Module):
    """Stem and `layers` Transformer layers.

    Args:
      frame: unused; other audio encoders get their number of mels here.
      width: D.
      layers: how many.
      heads: of each layer's attention; divides the width.
      hidden: units between the two layers of each perceptron.
      channels, kernels, strides: of the convolutions, one entry each.
      extractor_norm: 'group': the first convolution's channels over the clip's time; 'layer': every convolution's
        output over its channels.
      extractor_bias: whether the convolutions have a bias.
      projection_norm: whether their last output is normalised before it is projected to the width.
      norm_first: normalise the input of each part and the last output ("stable"), instead of each sum.
      positions: steps, groups and number of the convolutions that mark positions.
      positions_norm: whether the outputs of these are normalised.
      normalise: whether each clip's waveform is brought to mean 0 and deviation 1.
      dropout: share of each part's output zeroed in training.
      attention: of the layers.
    """

    def __init__(
        self,
        frame: int,
        *,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        norm_first: bool,
        dropout: float,
        attention: type[Attention] = Attention,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
        **of_stem,
    ):
        self.width, self.window, self.dropout = width, WINDOW, Rate.of(dropout)
        self.stem = Stem(width, norm_first=norm_first, dtype=dtype, rngs=rngs, **of_stem)
        options = {"heads": heads, "hidden": hidden, "dropout": dropout, "epsilon": EPSILON, "attention": attention}
        self.layers = nnx.List(
            Layer(width, norm_first=norm_first, **options, dtype=dtype, rngs=rngs) for _ in range(layers)
        )
        self.norm = layer_norm(width, EPSILON, dtype=dtype, rngs=rngs) if norm_first else None

    def __call__(
        self, wave_BxTxH: jax.Array, frames_B: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Waveforms cut into frames, [batch, frames, samples of a frame] -> ([batch, steps, width], mask)."""
        stem_key, layers_key = split(key, 2)
        h_BxSxD, mask_BxS = self.stem(*_joined(wave_BxTxH, frames_B))
        h_BxSxD = dropout(h_BxSxD, self.dropout, stem_key)
        h_BxSxD = run_layers(self.layers, h_BxSxD, mask_BxS, layers_key, self.bias(h_BxSxD.shape[1]))
        h_BxSxD = self.norm(h_BxSxD) if self.norm else h_BxSxD
        return jnp.where(mask_BxS[..., None], h_BxSxD, 0), mask_BxS

    def states(self, wave_BxTxH: jax.Array, frames_B: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """`layer_outputs` of the clips, and the mask of their own steps."""
        h_BxSxD, mask_BxS = self.stem(*_joined(wave_BxTxH, frames_B))
        return layer_outputs(self.layers, h_BxSxD, mask_BxS, self.norm, self.bias(h_BxSxD.shape[1])), mask_BxS

    def centres(self, steps: int) -> np.ndarray:
        """The frame in the middle of each step; frames are of `WAVE_FRAME` samples."""
        return (self.stem.span / 2 + self.stem.stride * np.arange(steps)) / WAVE_FRAME

    def bias(self, steps: int) -> jax.Array | None:
        """What is added to the attention of every layer, [heads, steps, steps]; None: nothing."""
        return None


def _joined(wave_BxTxH: jax.Array, frames_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Waveforms [batch, samples] in float32, and their lengths."""
    clips, _, samples = wave_BxTxH.shape
    return wave_BxTxH.astype(jnp.float32).reshape(clips, -1), frames_B * samples


def _standardised(x: jax.Array, mask: jax.Array, epsilon: float) -> jax.Array:
    """Mean 0 and deviation 1 over axis 1 where `mask` is True, zero elsewhere."""
    count = jnp.maximum(mask.sum(1, keepdims=True), 1)
    centred = jnp.where(mask, x - jnp.where(mask, x, 0).sum(1, keepdims=True) / count, 0)
    return centred * jax.lax.rsqrt(jnp.square(centred).sum(1, keepdims=True) / count + epsilon)


def _gelu(h: jax.Array) -> jax.Array:
    return jax.nn.gelu(h, approximate=False)
