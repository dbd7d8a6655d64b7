"""Low-rank adapters for encoders made of Transformer layers (LoRA, Hu et al. 2021, arXiv:2106.09685).

Beside a weight matrix W [in, out], which stays as it is, two small ones are trained: A [in, rank] and B [rank, out].
W + alpha / rank * A B takes the place of W. B begins at zero, so that the first step is that of the encoder itself.
They are kept apart in checkpoints and bundles: with rank 8 they cost 4 % of a matrix product of width 384.
"""

from collections.abc import Sequence

import jax
from flax import nnx

from emoflax.errors import UserError
from emoflax.models.transformer import Layer

TARGETS = ("query", "key", "value", "out", "up", "down")  # matrices of a `Layer`, those of its attention first
NAME = "lora"  # of the adapter in its layer, and in the paths of its parameters


class AdaptedLinear(nnx.LoRALinear):
    """The linear layer whose weights it takes over, under their names, and its adapter `lora`."""

    def __init__(self, linear: nnx.Linear, *, rank: int, alpha: float, rngs: nnx.Rngs):
        options = {"use_bias": linear.bias is not None, "dtype": linear.dtype, "lora_dtype": linear.dtype}
        super().__init__(linear.in_features, linear.out_features, lora_rank=rank, **options, rngs=rngs)
        self.kernel, self.bias, self.share = linear.kernel, linear.bias, alpha / rank

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out]."""
        return nnx.Linear.__call__(self, x) + self.share * self.lora(x)


def add(encoders: Sequence[nnx.Module], *, rank: int, alpha: float, targets: Sequence[str], rngs: nnx.Rngs) -> None:
    """Puts an adapter beside each of the `targets` in every layer of those encoders that are made of layers.

    Raises:
      UserError: none of them is, or the rank is none of a smaller matrix.
    """
    layers = [layer for encoder in encoders for layer in getattr(encoder, "layers", ()) if isinstance(layer, Layer)]
    if not layers:
        raise UserError("config.model.lora needs an encoder made of layers (a Transformer); set its rank to 0")
    for layer in layers:
        for name in targets:
            owner = layer if hasattr(layer, name) else layer.attention
            linear = getattr(owner, name)
            if rank >= min(linear.in_features, linear.out_features):
                raise UserError(
                    f"config.model.lora.rank={rank} must be below {min(linear.in_features, linear.out_features)}, the "
                    "smaller side of the matrices that it adapts"
                )
            setattr(owner, name, AdaptedLinear(linear, rank=rank, alpha=alpha, rngs=rngs))
