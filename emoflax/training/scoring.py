"""Log-probabilities of rows and of clips, by a trained model, and the vectors that its head classifies."""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import Future
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
from emoflax.parallel.workers import in_thread
from emoflax.training.step import TrainState, Weights, apply

Outputs = Callable[[nnx.GraphDef, Any, Any, Batch], jax.Array]  # graph, weights, statistics, batch -> [batch, numbers]


def _log_p(model: nnx.GraphDef, params: Any, statistics: Any, batch: Batch) -> jax.Array:
    return jax.nn.log_softmax(apply(model, params, statistics, batch, None))


def _pooled(model: nnx.GraphDef, params: Any, statistics: Any, batch: Batch) -> jax.Array:
    return nnx.merge(model, params, statistics, copy=True).embed(batch)


def _of_bucket(of: Outputs, model: nnx.GraphDef, params: Any, statistics: Any, bucket: Bucket) -> np.ndarray:
    """[rows, numbers] of a bucket's rows, in their order."""
    batch_size, mesh, count = bucket.batch_size, bucket.mesh, np.int32(len(bucket))
    stacked = _of_rows(of, model, batch_size, bucket.most_steps, mesh, params, statistics, bucket.rows, count)
    return np.asarray(stacked)[: len(bucket)]  # cut here: on a device it would be a program for each number of rows


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _of_rows(
    of: Outputs, model: nnx.GraphDef, batch_size: int, most_steps: int, mesh: Mesh | None,
    params: Any, statistics: Any, rows: Batch, count: jax.Array,
) -> jax.Array:  # fmt: skip
    """[most steps * batch size, numbers]; what is behind the first `count` means nothing."""
    order = jnp.arange(len(rows.label))

    def score(slot: jax.Array) -> jax.Array:
        batch = batch_of(rows, order, count, slot, batch_size, mesh)
        return of(model, params, statistics, batch)[:batch_size]

    def step(slot: jax.Array, stacked: jax.Array) -> jax.Array:
        return devices.constrain_replicated(stacked.at[slot].set(score(slot)), mesh)

    with devices.at_work(mesh):
        one = jax.eval_shape(score, count)
        stacked = jnp.zeros((most_steps, *one.shape), one.dtype)
        stacked = jax.lax.fori_loop(0, -(-count // batch_size), step, stacked)
    return devices.constrain_replicated(stacked.reshape(-1, stacked.shape[-1]), mesh)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _of_chunk(of: Outputs, model: nnx.GraphDef, params: Any, statistics: Any, chunk: Chunk) -> jax.Array:
    """[steps, padded batch, numbers] of batches of one bucket."""

    def score(flat):
        return of(model, params, statistics, chunk.batch(0, flat))

    with devices.at_work(chunk.mesh):
        return devices.constrain_replicated(jax.lax.map(score, chunk.flat), chunk.mesh)


def _of(of: Outputs, model: nnx.GraphDef, state: Weights | TrainState, rows: Bucket | Rows) -> np.ndarray:
    """[rows, numbers], of resident and of streamed rows."""
    weights = state.evaluated, state.statistics
    if isinstance(rows, Bucket):
        return _of_bucket(of, model, *weights, rows)
    visited = np.stack([np.zeros(rows.steps, int), np.arange(rows.steps)], 1)
    longest = stream.steps_of_a_chunk([rows])
    spans = [visited[begin : begin + longest] for begin in range(0, rows.steps, longest)]
    chunks = stream.chunks([rows], [np.arange(len(rows))], spans)
    stacked = np.concatenate([np.asarray(_of_chunk(of, model, *weights, chunk)) for chunk in chunks])
    return stacked[:, : rows.batch_size].reshape(-1, stacked.shape[-1])[: len(rows)]


def score(model: nnx.GraphDef, weights: Weights | TrainState, dataset: Dataset) -> np.ndarray:
    """Log-probabilities [clips, classes] float64: the normalised mean over each clip's rows."""
    rows = np.concatenate([_of(_log_p, model, weights, bucket) for bucket in dataset.buckets])
    return mean_over_rows(rows.astype(np.float64), np.concatenate(dataset.row_clips))


def compile_ahead(model: nnx.GraphDef, weights: Weights | TrainState, dataset: Dataset) -> Future[None]:
    """Compiles `score` for such weights in a thread, for rows that are on the devices.

    A step's program takes longer and leaves a core idle. JAX keeps a program that has run, so one row of each bucket is
    scored, by zeros in the place of weights: training gives its own away at the first step.
    """
    arrays = weights.evaluated, weights.statistics
    zeros = Weights(*jax.tree.map(lambda array: jnp.asarray(np.zeros(array.shape, array.dtype)), arrays))

    def run() -> None:
        empty = devices.replicate(zeros, dataset.mesh)
        for bucket in dataset.buckets:
            if isinstance(bucket, Bucket):
                _of(_log_p, model, empty, dataclasses.replace(bucket, count=1))

    return in_thread(run)


def pooled(model: nnx.GraphDef, weights: Weights | TrainState, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """What the head classifies of every row, float32 [rows, width], and the place of each row's clip in the dataset."""
    rows = np.concatenate([_of(_pooled, model, weights, bucket) for bucket in dataset.buckets])
    return rows.astype(np.float32), np.concatenate(dataset.row_clips)


def mean_over_rows(log_p: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Log-probabilities [rows, classes] and each row's clip, from 0 on -> [clips, classes] float64, normalised."""
    total = np.zeros((clip.max() + 1, log_p.shape[1]))
    np.add.at(total, clip, log_p)
    mean = total / np.bincount(clip)[:, None]
    return mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
