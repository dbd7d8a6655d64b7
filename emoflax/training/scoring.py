"""Log-probabilities of rows and of clips, by a trained model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from emoflax.batch import Batch
from emoflax.data import stream
from emoflax.data.dataset import Dataset
from emoflax.data.rows import Bucket, Rows, batch_of
from emoflax.data.stream import Chunk
from emoflax.parallel import mesh as devices
from emoflax.training.step import TrainState, Weights, apply


def log_probabilities(model: nnx.GraphDef, params: Any, statistics: Any, bucket: Bucket) -> jax.Array:
    """[rows, classes] of a bucket's rows, in their order."""
    batch_size, mesh, count = bucket.batch_size, bucket.mesh, np.int32(len(bucket))
    stacked = _log_probabilities(model, batch_size, bucket.most_steps, mesh, params, statistics, bucket.rows, count)
    return stacked[: len(bucket)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _log_probabilities(
    model: nnx.GraphDef, batch_size: int, most_steps: int, mesh: Mesh | None,
    params: Any, statistics: Any, rows: Batch, count: jax.Array,
) -> jax.Array:  # fmt: skip
    """[most steps * batch size, classes]; what is behind the first `count` means nothing."""
    order = jnp.arange(len(rows.label))

    def score(slot: jax.Array) -> jax.Array:
        batch = batch_of(rows, order, count, slot, batch_size, mesh)
        return jax.nn.log_softmax(apply(model, params, statistics, batch, None))[:batch_size]

    def step(slot: jax.Array, stacked: jax.Array) -> jax.Array:
        return devices.constrain_replicated(stacked.at[slot].set(score(slot)), mesh)

    with devices.at_work(mesh):
        one = jax.eval_shape(score, count)
        stacked = jnp.zeros((most_steps, *one.shape), one.dtype)
        stacked = jax.lax.fori_loop(0, -(-count // batch_size), step, stacked)
    return devices.constrain_replicated(stacked.reshape(-1, stacked.shape[-1]), mesh)


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities_of_chunk(model: nnx.GraphDef, params: Any, statistics: Any, chunk: Chunk) -> jax.Array:
    """[steps, padded batch, classes] of batches of one bucket."""

    def score(flat):
        return jax.nn.log_softmax(apply(model, params, statistics, chunk.batch(0, flat), None))

    with devices.at_work(chunk.mesh):
        return devices.constrain_replicated(jax.lax.map(score, chunk.flat), chunk.mesh)


def rows_log_probabilities(model: nnx.GraphDef, state: Weights | TrainState, rows: Bucket | Rows) -> np.ndarray:
    """[rows, classes] float64, of resident and of streamed rows."""
    weights = state.evaluated, state.statistics
    if isinstance(rows, Bucket):
        return np.asarray(log_probabilities(model, *weights, rows), np.float64)
    visited = np.stack([np.zeros(rows.steps, int), np.arange(rows.steps)], 1)
    longest = stream.steps_of_a_chunk([rows])
    spans = [visited[begin : begin + longest] for begin in range(0, rows.steps, longest)]
    chunks = stream.chunks([rows], [np.arange(len(rows))], spans)
    stacked = np.concatenate([np.asarray(log_probabilities_of_chunk(model, *weights, chunk)) for chunk in chunks])
    return stacked[:, : rows.batch_size].reshape(-1, stacked.shape[-1])[: len(rows)].astype(np.float64)


def score(model: nnx.GraphDef, weights: Weights | TrainState, dataset: Dataset) -> np.ndarray:
    """Log-probabilities [clips, classes] float64: the normalised mean over each clip's rows."""
    rows = np.concatenate([rows_log_probabilities(model, weights, bucket) for bucket in dataset.buckets])
    return mean_over_rows(rows, np.concatenate(dataset.row_clips))


def mean_over_rows(log_p: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Log-probabilities [rows, classes] and each row's clip, from 0 on -> [clips, classes] float64, normalised."""
    total = np.zeros((clip.max() + 1, log_p.shape[1]))
    np.add.at(total, clip, log_p)
    mean = total / np.bincount(clip)[:, None]
    return mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
