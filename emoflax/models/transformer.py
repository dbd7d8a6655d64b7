"""Transformer layers (Vaswani et al. 2017, arXiv:1706.03762), shared by every encoder that is made of them.

The optimizer knows a parameter's depth by the name of its part in the encoder: `stem` comes before the layers, `layers`
is the list of them, and any other part comes after.

Shape letters: B clips, T steps of the queries, S steps of the keys and values, D width, N heads, H width of one head.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from emoflax.errors import UserError
from emoflax.models.dropout import Rate, dropout, split


class Attention(nnx.Module):
    """Multi-head scaled dot-product attention."""

    def __init__(self, width: int, heads: int, *, key_bias: bool = True, dtype=jnp.float32, rngs: nnx.Rngs):
        if heads < 1 or width % heads:
            raise UserError(f"a Transformer of width {width} cannot have {heads} heads; heads must divide the width")
        self.heads = heads
        self.query = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=key_bias, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BxTxD: jax.Array, memory_BxSxD: jax.Array, mask_BxS: jax.Array, bias: jax.Array | None = None
    ) -> jax.Array:
        """Every step of x attends to the valid steps of the memory (x itself in self-attention): [batch, steps, width].

        bias: added to the scores, [batch, heads, steps of x, steps of the memory]; None: nothing.
        Where no step of the memory is valid, the output is a meaningless but finite mean over all of them.
        """
        q_BxTxNxH, k_BxSxNxH, v_BxSxNxH = (
            part(source).reshape(*source.shape[:2], self.heads, -1)
            for part, source in ((self.query, x_BxTxD), (self.key, memory_BxSxD), (self.value, memory_BxSxD))
        )
        mask_Bx1x1xS = mask_BxS[:, None, None]
        h_BxTxNxH = jax.nn.dot_product_attention(q_BxTxNxH, k_BxSxNxH, v_BxSxNxH, bias, mask_Bx1x1xS)
        return self.out(h_BxTxNxH.reshape(x_BxTxD.shape))


class Layer(nnx.Module):
    """Self-attention and a two-layer perceptron with GELU, each with dropout, residual and layer normalisation.

    Args:
      width: D.
      heads: N, divides the width.
      hidden: units between the perceptron's two layers.
      norm_first: normalise the input of each part (AST, Whisper) instead of the output of each sum (BERT).
      dropout: share of each part's output zeroed in training.
      epsilon: added to the variance in layer normalisation.
      key_bias: whether the attention's keys have a bias; it changes no output, but Whisper has none.
      attention: the class of the self-attention.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        hidden: int,
        norm_first: bool,
        dropout: float,
        epsilon: float,
        key_bias: bool = True,
        attention: type[Attention] = Attention,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm_first, self.dropout = norm_first, Rate.of(dropout)
        self.attention = attention(width, heads, key_bias=key_bias, dtype=dtype, rngs=rngs)
        self.attention_norm = layer_norm(width, epsilon, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)
        self.mlp_norm = layer_norm(width, epsilon, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BxTxD: jax.Array, mask_BxT: jax.Array, key: jax.Array | None = None, bias: jax.Array | None = None
    ) -> jax.Array:
        """[batch, steps, width] -> the same; steps outside the mask are not attended to. bias: see the attention."""
        keys = split(key, 2)
        x_BxTxD = self._add(x_BxTxD, lambda h: self.attention(h, h, mask_BxT, bias), self.attention_norm, keys[0])
        return self._add(x_BxTxD, self._mlp, self.mlp_norm, keys[1])

    def _add(self, x_BxTxD, part, norm, key):
        h_BxTxD = part(norm(x_BxTxD) if self.norm_first else x_BxTxD)
        x_BxTxD = x_BxTxD + dropout(h_BxTxD, self.dropout, key)
        return x_BxTxD if self.norm_first else norm(x_BxTxD)

    def _mlp(self, x_BxTxD):
        return self.down(jax.nn.gelu(self.up(x_BxTxD), approximate=False))


def layer_norm(width: int, epsilon: float, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance (mean of squares minus square of mean) is less exact than an epsilon of 1e-12 requires.
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


def run_layers(
    layers: nnx.List, x_BxTxD: jax.Array, mask_BxT: jax.Array, key: jax.Array | None, bias: jax.Array | None = None
) -> jax.Array:
    for layer, layer_key in zip(layers, split(key, len(layers)), strict=True):
        x_BxTxD = layer(x_BxTxD, mask_BxT, layer_key, bias)
    return x_BxTxD


def layer_outputs(
    layers: nnx.List, x_BxTxD: jax.Array, mask_BxT: jax.Array, norm: nnx.LayerNorm | None, bias: jax.Array | None = None
) -> list[jax.Array]:
    """The first layer's input and every layer's output, [batch, steps, width] each.

    norm: what the last output goes through, as in the encoder's own output; None: nothing.
    """
    outputs = [x_BxTxD]
    for layer in layers:
        outputs.append(layer(outputs[-1], mask_BxT, bias=bias))
    if norm:
        outputs[-1] = norm(outputs[-1])
    return outputs
