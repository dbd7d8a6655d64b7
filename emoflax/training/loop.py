"""The training state, one pure step, an epoch as one compiled program, and the loop."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from emoflax.data import stream
from emoflax.data.dataset import Dataset
from emoflax.data.rows import Bucket, Rows
from emoflax.data.stream import Chunk
from emoflax.errors import DivergedError
from emoflax.parallel import mesh as devices
from emoflax.training.monitor import Profile
from emoflax.training.step import TrainConfig, TrainState, batch_at, train_step


def visits(steps: Sequence[int], epoch: jax.Array) -> jax.Array:
    """(bucket, batch) of every step of an epoch, [sum of steps, 2]; `steps`: batches of each bucket.

    A function of the epoch alone, so that models of a population (population.py) go through the buckets side by side.
    """
    every = np.concatenate([np.stack([np.full(n, b), np.arange(n)], 1) for b, n in enumerate(steps)])
    key = jax.random.fold_in(jax.random.key(0x5EED), epoch)
    return jax.random.permutation(key, jnp.asarray(every, jnp.int32))


def row_orders(rows: Sequence[int], seed: jax.Array, epoch: jax.Array) -> list[jax.Array]:
    """The order of each bucket's rows in an epoch, a function of (seed, epoch); `rows`: how many each bucket has."""
    key = jax.random.fold_in(jax.random.key(seed ^ jnp.uint32(0x5EED)), epoch)
    keys = jax.random.split(key, len(rows))
    return [jax.random.permutation(k, n) for k, n in zip(keys, rows, strict=True)]


@functools.partial(jax.jit, static_argnums=(0, 3), donate_argnums=1)
def train_epoch(
    train_config: TrainConfig, state: TrainState, buckets: tuple[Bucket, ...], span: tuple[int, int] | None = None
) -> tuple[TrainState, dict]:
    """Every row once, in an order that is a function of (seed, epoch); returns metrics [steps].

    Args:
      span: the epoch's first step to take, and the one to stop before; None: all.
    """
    steps = [bucket.steps for bucket in buckets]
    epoch = state.step // sum(steps)
    orders = row_orders([len(bucket) for bucket in buckets], state.seed, epoch)

    def take(bucket: Bucket, order: jax.Array, state: TrainState, slot: jax.Array):
        return train_step(train_config, state, batch_at(bucket, order, slot))

    branches = [functools.partial(take, bucket, order) for bucket, order in zip(buckets, orders, strict=True)]

    def body(state, visit):
        return jax.lax.switch(visit[0], branches, state, visit[1])

    return _scan(body, state, visits(steps, epoch)[slice(*span or (None,))], buckets[0].mesh)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_chunk(train_config: TrainConfig, state: TrainState, chunk: Chunk) -> tuple[TrainState, dict]:
    """`train_epoch` of a part of an epoch whose batches are streamed."""

    def take(bucket: int, state: TrainState, flat: dict[str, jax.Array]):
        return train_step(train_config, state, chunk.batch(bucket, flat))

    branches = [functools.partial(take, bucket) for bucket in range(len(chunk.layouts))]

    def body(state, visit):
        return jax.lax.switch(visit[0], branches, state, visit[1])

    return _scan(body, state, (chunk.bucket, chunk.flat), chunk.mesh)


def _scan(body: Callable, state: TrainState, visited: Any, mesh: Mesh | None) -> tuple[TrainState, dict]:
    """Steps one after the other; weights and metrics are the same on every device."""
    with devices.at_work(mesh):
        return jax.lax.scan(lambda *step: devices.constrain_replicated(body(*step), mesh), state, visited)


def run_epoch(
    train_config: TrainConfig, state: TrainState, train: Dataset, epoch: int, profile: Profile
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Epoch number `epoch`, from 0 on, in one dispatch unless it is streamed or profiled; metrics [steps]."""
    before, parts = epoch * train.steps, []
    edges = {0, train.steps, *(step - before for step in profile.steps if 0 < step - before < train.steps)}
    if train.streamed:
        edges |= set(range(0, train.steps, stream.steps_of_a_chunk(train.buckets)))
    spans = list(itertools.pairwise(sorted(edges)))
    chunks = streamed(train.buckets, np.asarray(state.seed), epoch, spans) if train.streamed else [None] * len(spans)
    for span, chunk in zip(spans, chunks, strict=True):
        profile.before(before + span[0], state)
        if chunk:
            state, metrics = train_chunk(train_config, state, chunk)
        else:
            state, metrics = train_epoch(train_config, state, train.buckets, span if len(spans) > 1 else None)
        jax.block_until_ready(parts[-1:])  # one waits on the device while one runs, and no more pile up in memory
        parts.append(metrics)
        profile.after(before + span[1], state)
    parts = jax.device_get(parts)
    return state, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def streamed(
    buckets: Sequence[Rows], seed: np.ndarray, epoch: int, spans: Sequence[tuple[int, int]]
) -> Iterator[Chunk]:
    """The batches that `train_epoch` would take, of each span of the epoch's steps."""
    orders = [np.asarray(order) for order in row_orders([len(rows) for rows in buckets], seed, epoch)]
    visited = np.asarray(visits([rows.steps for rows in buckets], epoch))
    return stream.chunks(buckets, orders, [visited[slice(*span)] for span in spans])


def fit(
    train_config: TrainConfig,
    state: TrainState,
    train: Dataset,
    *,
    epochs: int,
    after_epoch: Callable[[int, TrainState, dict], None],
    profile: Profile | None = None,
) -> TrainState:
    """Trains from the state's own epoch to `epochs`; `after_epoch(epoch, state, numbers)` evaluates, saves and logs.

    Raises:
      DivergedError: a loss or gradient is not finite; the checkpoints written before are untouched.
    """
    steps, profile = train.steps, profile or Profile()
    for epoch in range(int(state.step) // steps + 1, epochs + 1):
        begin = time.perf_counter()
        state, metrics = run_epoch(train_config, state, train, epoch - 1, profile)
        seconds = time.perf_counter() - begin
        check_finite(metrics, first_step=(epoch - 1) * steps)
        after_epoch(epoch, state, numbers_of(epoch, metrics, len(train.clips), seconds))
    return state


def numbers_of(epoch: int, metrics: dict[str, np.ndarray], clips: int, seconds: float) -> dict[str, float]:
    """What an epoch is logged with; `metrics`: [steps]."""
    return {
        "epoch": epoch,
        "step": epoch * len(metrics["loss"]),
        "loss": float(metrics["loss"].mean()),
        "grad_norm": float(metrics["grad_norm"].mean()),
        "clips_per_s": clips / seconds,
        "seconds": seconds,
    }


def check_finite(metrics: dict[str, np.ndarray], first_step: int) -> None:
    """Raises DivergedError that names the first step and the metric that is NaN or infinite."""
    names = ("loss", "grad_norm")  # cause before effect
    bad = ~np.isfinite([metrics[name] for name in names])
    if bad.any():
        step = int(bad.any(0).argmax())
        name = names[int(bad[:, step].argmax())]
        raise DivergedError(
            f"{name} is {metrics[name][step]} at step {first_step + step}; training stopped, the last checkpoint is "
            "kept. Lower config.optimizer.learning_rate, set config.optimizer.clip_norm, or use float32"
        )
