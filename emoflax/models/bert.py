"""BERT's encoder (Devlin et al. 2019, arXiv:1810.04805): tokens that attend to each other in both directions.

RoBERTa (Liu et al. 2019, arXiv:1907.11692) and DistilBERT (Sanh et al. 2019, arXiv:1910.01108) are the same network
trained otherwise. With the weights of a Hugging Face folder (`emoflax/pretrained/`) it computes what `transformers`
does for each of them.

Shape letters: B clips, T tokens, D width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models.dropout import Rate, dropout, split, token_dropout
from emoflax.models.transformer import Layer, layer_norm, layer_outputs, run_layers

UNKNOWN = 1  # id of <unk>; 0 is padding


class Embedding(nnx.Module):
    """Word, position and segment, summed and normalised. There is one segment only, the first."""

    def __init__(self, vocabulary: int, positions: int, width: int, *, epsilon: float, dtype, rngs: nnx.Rngs):
        def normal(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        self.dtype = dtype
        self.word_embedding = normal(vocabulary, width)
        self.position_embedding = normal(positions, width)
        self.segment_embedding = normal(width)
        self.norm = layer_norm(width, epsilon, dtype=dtype, rngs=rngs)

    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        position_TxD = self.position_embedding[: tokens_BxT.shape[1]] + self.segment_embedding[None]
        return self.norm((self.word_embedding[tokens_BxT] + position_TxD[None]).astype(self.dtype))


class Bert(nnx.Module):
    """Embedding and `layers` Transformer layers, normalised after each sum.

    Args:
      vocabulary: number of token ids; 0 is padding, 1 is <unk>.
      width: D.
      layers: how many.
      heads: of each layer's attention; divides the width.
      hidden: units between the two layers of each perceptron.
      positions: tokens of the longest text.
      epsilon: added to the variance in every layer normalisation.
      dropout: share of each part's output zeroed in training.
      token_dropout: share of the tokens replaced by <unk> in training.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        positions: int,
        epsilon: float = 1e-12,
        dropout: float,
        token_dropout: float,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, self.positions = width, positions
        self.window = positions  # the most tokens that its states are made of at once
        self.dropout, self.token_dropout = Rate.of(dropout), Rate.of(token_dropout)
        self.stem = Embedding(vocabulary, positions, width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        options = {"heads": heads, "hidden": hidden, "dropout": dropout, "epsilon": epsilon}
        self.layers = nnx.List(Layer(width, norm_first=False, **options, dtype=dtype, rngs=rngs) for _ in range(layers))

    def __call__(
        self, tokens_BxT: jax.Array, lengths_B: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[batch, tokens] -> ([batch, tokens, width], mask); zero at padding, to which no token attends."""
        self._check(tokens_BxT)
        mask_BxT = valid(lengths_B, tokens_BxT.shape[1])
        token_key, embedding_key, layers_key = split(key, 3)
        tokens_BxT = token_dropout(tokens_BxT, self.token_dropout, token_key, UNKNOWN)
        h_BxTxD = dropout(self.stem(tokens_BxT), self.dropout, embedding_key)
        h_BxTxD = run_layers(self.layers, h_BxTxD, mask_BxT, layers_key)
        return jnp.where(mask_BxT[..., None], h_BxTxD, 0), mask_BxT

    def states(self, tokens_BxT: jax.Array, lengths_B: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """`layer_outputs` of the texts, and the mask of their own tokens."""
        self._check(tokens_BxT)
        mask_BxT = valid(lengths_B, tokens_BxT.shape[1])
        return layer_outputs(self.layers, self.stem(tokens_BxT), mask_BxT, norm=None), mask_BxT

    def _check(self, tokens_BxT: jax.Array) -> None:
        if tokens_BxT.shape[1] > self.positions:
            raise UserError(
                f"config.model.bert.positions={self.positions}, but there are texts of up to {tokens_BxT.shape[1]} "
                "tokens; raise it (from scratch) or lower config.text.max_tokens"
            )
