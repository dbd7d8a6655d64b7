"""Fusion of the sequences of sound and of words -> logits: early, late, gated, hybrid, or by concatenation.

A fusion is built as `Fusion(widths, pooling=, head=, **its_config, dtype=, rngs=)`: the width of each modality's
sequence by its name, and two functions from a width to a new pooling and to a new head. It is called with
`{'audio': (sequence [batch, steps, width], mask [batch, steps]), 'text': ...}` and returns logits [batch, classes].
A clip that lacks a modality has an all-False mask there; what its sequence holds never reaches the logits.
`read(streams, key)` returns the logits and the pooled vectors that they were computed from, [batch, `pooled_width`].

`attention(streams)` returns the weights of attention pooling, `{'audio': [batch, steps, heads], 'text': ...}`.
"""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from emoflax.errors import UserError
from emoflax.masks import masked_softmax
from emoflax.models.dropout import Rate, dropout, split
from emoflax.models.transformer import Attention, Layer, layer_norm, run_layers

Streams = Mapping[str, tuple[jax.Array, jax.Array]]
COMBINATIONS = ("logits", "probabilities")
EPSILON = 1e-6  # added to the variance in layer normalisation


class Fusion(nnx.Module):
    """What all of them share; `pools`, the pooling of each modality, is there unless `attention` is written anew."""

    def __call__(self, streams: Streams, key: jax.Array | None = None) -> jax.Array:
        return self.read(streams, key)[0]

    def attention(self, streams: Streams) -> dict[str, jax.Array]:
        return {name: pool.weights(*streams[name]) for name, pool in self.pools.items()}


class Concat(Fusion):
    """The pooled vectors concatenated, and one head. A model of one modality is the special case of one vector."""

    def __init__(self, widths: Mapping[str, int], *, pooling: Callable, head: Callable, dtype, rngs: nnx.Rngs):
        self.pools = nnx.Dict({name: pooling(width) for name, width in widths.items()})
        self.pooled_width = sum(pool.width for pool in self.pools.values())
        self.head = head(self.pooled_width)

    def read(self, streams: Streams, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        pooled_BxD = jnp.concatenate([pool(*streams[name]) for name, pool in self.pools.items()], axis=-1)
        return self.head(pooled_BxD, key), pooled_BxD


class Late(Fusion):
    """One head per modality, whose outputs are averaged with learned weights.

    Args:
      combine: 'logits', a product of experts (Hinton 2002), in which each modality can rule an emotion out; or
        'probabilities', a mixture, in which each can only support one. For a clip that lacks a modality the weight of
        the other one is 1.
    """

    def __init__(
        self, widths: Mapping[str, int], *, combine: str, pooling: Callable, head: Callable, dtype, rngs: nnx.Rngs
    ):
        if combine not in COMBINATIONS:
            raise UserError(f"config.model.late.combine={combine!r}; choose one of: {', '.join(COMBINATIONS)}")
        self.combine = combine
        self.pools = nnx.Dict({name: pooling(width) for name, width in widths.items()})
        self.pooled_width = sum(pool.width for pool in self.pools.values())
        self.heads = nnx.Dict({name: head(pool.width) for name, pool in self.pools.items()})
        self.weight = nnx.Param(jnp.zeros(len(widths)))  # before the softmax over the modalities that are there

    def read(self, streams: Streams, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        pooled = {name: pool(*streams[name]) for name, pool in self.pools.items()}
        keys = dict(zip(pooled, split(key, len(pooled)), strict=True))
        logits_BxMxC = jnp.stack([self.heads[name](h_BxD, keys[name]) for name, h_BxD in pooled.items()], axis=1)
        pooled_BxD = jnp.concatenate(list(pooled.values()), axis=-1)
        weight_BxMx1 = masked_softmax(self.weight[...][None], _there(streams, self.pools), axis=1)[..., None]
        if self.combine == "logits":
            return jnp.sum(weight_BxMx1 * logits_BxMxC, axis=1), pooled_BxD
        return jax.nn.logsumexp(jax.nn.log_softmax(logits_BxMxC), axis=1, b=weight_BxMx1), pooled_BxD


class Gated(Fusion):
    """One head per modality, whose logits are averaged with weights that depend on the clip.

    The weights, each modality's share, are a softmax over the modalities that are there, of a linear function of all
    pooled vectors (a gate as in mixtures of experts, Jacobs et al. 1991, doi:10.1162/neco.1991.3.1.79, of logits). They
    add up to 1, so that a head which tells nothing costs the other one its certainty: training closes its gate. `Late`
    has one pair of weights for all clips. Costs one matrix [pooled width, modalities].
    """

    def __init__(self, widths: Mapping[str, int], *, pooling: Callable, head: Callable, dtype, rngs: nnx.Rngs):
        self.pools = nnx.Dict({name: pooling(width) for name, width in widths.items()})
        self.pooled_width = sum(pool.width for pool in self.pools.values())
        self.heads = nnx.Dict({name: head(pool.width) for name, pool in self.pools.items()})
        start = {"kernel_init": nnx.initializers.zeros_init(), "dtype": dtype, "rngs": rngs}  # all count alike at first
        self.gate = nnx.Linear(self.pooled_width, len(widths), **start)

    def read(self, streams: Streams, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        pooled = {name: pool(*streams[name]) for name, pool in self.pools.items()}
        keys = dict(zip(pooled, split(key, len(pooled)), strict=True))
        logits_BxMxC = jnp.stack([self.heads[name](h_BxD, keys[name]) for name, h_BxD in pooled.items()], axis=1)
        pooled_BxD = jnp.concatenate(list(pooled.values()), axis=-1)
        share_BxMx1 = self._shares(pooled_BxD, streams)[..., None]
        return jnp.sum(share_BxMx1 * logits_BxMxC, axis=1), pooled_BxD

    def shares(self, streams: Streams) -> jax.Array:
        """Each modality's share of the logits, [batch, modalities]; 0 where it is missing."""
        pooled = [pool(*streams[name]) for name, pool in self.pools.items()]
        return self._shares(jnp.concatenate(pooled, axis=-1), streams)

    def _shares(self, pooled_BxD: jax.Array, streams: Streams) -> jax.Array:
        return masked_softmax(self.gate(pooled_BxD), _there(streams, self.pools), axis=1)


class Early(Fusion):
    """Frames and tokens as one sequence through a common trunk of Transformer layers, then pooling and head.

    A learned vector is added to each modality's steps so that the trunk can distinguish them; it adds no positions, so
    the order of steps is known only as far as the encoders put it into their sequences.

    Args:
      width: of the trunk.
      layers: of the Transformer.
      heads: of each layer's attention.
      dropout: share of each part's output zeroed in training.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        pooling: Callable,
        head: Callable,
        dtype,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        self.project = nnx.Dict({name: nnx.Linear(into, width, **options) for name, into in widths.items()})
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (len(widths), width)))
        self.layers = nnx.List(
            Layer(width, heads=heads, hidden=4 * width, norm_first=True, dropout=dropout, epsilon=EPSILON, **options)
            for _ in range(layers)
        )
        self.norm = layer_norm(width, EPSILON, **options)
        self.pool = pooling(width)
        self.pooled_width = self.pool.width
        self.head = head(self.pooled_width)

    def read(self, streams: Streams, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        trunk_key, head_key = split(key, 2)
        pooled_BxD = self.pool(*self._trunk(streams, trunk_key))
        return self.head(pooled_BxD, head_key), pooled_BxD

    def attention(self, streams: Streams) -> dict[str, jax.Array]:
        """The weights of both modalities together add up to 1, so they also show how much each modality counts."""
        weight_BxTxH = self.pool.weights(*self._trunk(streams, None))
        ends = [streams[name][1].shape[1] for name in self.project][:-1]
        return dict(zip(self.project, jnp.split(weight_BxTxH, ends, axis=1), strict=True))

    def _trunk(self, streams: Streams, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        parts = [
            project(streams[name][0]) + vector[None, None].astype(streams[name][0].dtype)
            for (name, project), vector in zip(self.project.items(), self.embedding[...], strict=True)
        ]
        h_BxTxD = jnp.concatenate(parts, axis=1)
        mask_BxT = jnp.concatenate([streams[name][1] for name in self.project], axis=1)
        return self.norm(run_layers(self.layers, h_BxTxD, mask_BxT, key)), mask_BxT


class Hybrid(Fusion):
    """Frames attend to tokens and tokens to frames; the result is concatenated with each modality's own vectors.

    Cross-attention in both directions, as in Tsai et al. 2019 (arXiv:1906.00295), with a residual connection: a
    modality that is missing adds exactly nothing to the other one.

    Args:
      width: of the sequences in cross-attention.
      heads: of the cross-attention.
      dropout: share of cross-attention's output zeroed in training.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        width: int,
        heads: int,
        dropout: float,
        pooling: Callable,
        head: Callable,
        dtype,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        self.dropout = Rate.of(dropout)
        self.project = nnx.Dict({name: nnx.Linear(into, width, **options) for name, into in widths.items()})
        self.norms = nnx.Dict({name: layer_norm(width, EPSILON, **options) for name in widths})
        self.cross = nnx.Dict({name: Attention(width, heads, **options) for name in widths})
        self.pools = nnx.Dict({name: pooling(into) for name, into in widths.items()})
        self.cross_pools = nnx.Dict({name: pooling(width) for name in widths})
        pools = (*self.pools.values(), *self.cross_pools.values())
        self.pooled_width = sum(pool.width for pool in pools)
        self.head = head(self.pooled_width)

    def read(self, streams: Streams, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        cross_key, head_key = split(key, 2)
        crossed = self._cross(streams, cross_key)
        pooled = [pool(*streams[name]) for name, pool in self.pools.items()]
        pooled += [pool(*crossed[name]) for name, pool in self.cross_pools.items()]
        pooled_BxD = jnp.concatenate(pooled, axis=-1)
        return self.head(pooled_BxD, head_key), pooled_BxD

    def attention(self, streams: Streams) -> dict[str, jax.Array]:
        """The heads that pool a modality alone, then those that pool it after cross-attention."""
        crossed = self._cross(streams, None)
        return {
            name: jnp.concatenate(
                [self.pools[name].weights(*streams[name]), self.cross_pools[name].weights(*crossed[name])], axis=-1
            )
            for name in self.pools
        }

    def _cross(self, streams: Streams, key: jax.Array | None) -> Streams:
        h = {name: project(streams[name][0]) for name, project in self.project.items()}
        normed = {name: self.norms[name](h[name]) for name in h}
        crossed = {}
        for (name, cross), other, cross_key in zip(self.cross.items(), reversed(list(h)), split(key, 2), strict=True):
            attended = cross(normed[name], normed[other], streams[other][1])
            attended = jnp.where(streams[other][1].any(1)[:, None, None], attended, 0)
            crossed[name] = h[name] + dropout(attended, self.dropout, cross_key), streams[name][1]
        return crossed


def _there(streams: Streams, names: Iterable[str]) -> jax.Array:
    """Which modalities a clip has, [batch, modalities]; one that has none gets every head's output for no input."""
    there_BxM = jnp.stack([streams[name][1].any(1) for name in names], axis=1)
    return there_BxM | ~there_BxM.any(1, keepdims=True)
