"""Log-probabilities of rows and of clips, by a trained model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.data import stream
from emoflax.data.dataset import Dataset
from emoflax.data.rows import Bucket, Rows
from emoflax.data.stream import Chunk
from emoflax.parallel import mesh as devices
from emoflax.training.step import TrainState, Weights, apply, batch_at


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(model: nnx.GraphDef, params: Any, statistics: Any, bucket: Bucket) -> jax.Array:
    """[rows, classes] of a bucket's rows, in their order."""

    def score(slot):
        batch = batch_at(bucket, jnp.arange(len(bucket)), slot)
        return jax.nn.log_softmax(apply(model, params, statistics, batch, None))

    with devices.at_work(bucket.mesh):
        stacked = jax.lax.map(score, jnp.arange(bucket.steps))
    rows = stacked[:, : bucket.batch_size].reshape(-1, stacked.shape[-1])[: len(bucket)]
    return devices.constrain_replicated(rows, bucket.mesh)


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities_of_chunk(model: nnx.GraphDef, params: Any, statistics: Any, chunk: Chunk) -> jax.Array:
    """[steps, lanes, classes] of batches of one bucket."""

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


def score(model: nnx.GraphDef, state: Weights | TrainState, dataset: Dataset) -> np.ndarray:
    """Log-probabilities [clips, classes] float64: the normalised mean over each clip's rows."""
    rows = np.concatenate([rows_log_probabilities(model, state, bucket) for bucket in dataset.buckets])
    clip = np.concatenate(dataset.row_clips)
    total = np.zeros((len(dataset.clips), rows.shape[1]))
    np.add.at(total, clip, rows)
    mean = total / np.bincount(clip)[:, None]
    return mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
