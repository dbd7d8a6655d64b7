"""An epoch as one compiled program, over rows on the devices or over batches that are streamed to them.

The program is compiled for the shapes of the rows and for what `StepConfig` says. How many rows a bucket has, in which
order they come and which steps are taken are its arguments, so that the models of all seeds and folds run the same one.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from emoflax.data import stream
from emoflax.data.dataset import Dataset
from emoflax.data.rows import Bucket, Rows, batch_of
from emoflax.data.stream import Chunk
from emoflax.parallel import mesh as devices
from emoflax.parallel.workers import in_thread
from emoflax.training.step import StepConfig, TrainConfig, TrainState, train_step

Span = tuple[int, int]  # the first step of an epoch to take, from 0 on, and the one to stop before
Metrics = dict[str, Any]  # name -> [steps]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plan:
    """Which rows make up which batch of an epoch, on the devices.

    Attributes:
      orders: of each bucket, int32 [capacity]: its rows in the epoch's order, then padding.
      counts: int32 [buckets], rows of each bucket.
      visits: int32 [most steps, 2], (bucket, batch) of every step, then padding.
      span: int32 [2], the first step to take and the one to stop before.
    """

    orders: tuple[jax.Array, ...]
    counts: jax.Array
    visits: jax.Array
    span: jax.Array


def visits(steps: Sequence[int], epoch: jax.Array) -> jax.Array:
    """(bucket, batch) of every step of an epoch, [sum of steps, 2]; `steps`: batches of each bucket.

    A function of the epoch alone, so that models of a population go through the buckets side by side.
    """
    every = np.concatenate([np.stack([np.full(n, b), np.arange(n)], 1) for b, n in enumerate(steps)])
    key = jax.random.fold_in(jax.random.key(0x5EED), epoch)
    return jax.random.permutation(key, jnp.asarray(every, jnp.int32))


def row_orders(rows: Sequence[int], seed: jax.Array, epoch: jax.Array) -> list[jax.Array]:
    """The order of each bucket's rows in an epoch, a function of (seed, epoch); `rows`: how many each bucket has."""
    key = jax.random.fold_in(jax.random.key(seed ^ jnp.uint32(0x5EED)), epoch)
    counts, longest = np.array(rows)[:, None], max(rows)
    # One sort for all buckets: each costs a quarter of a second to compile.
    drawn = jax.random.bits(key, (len(rows), longest), jnp.uint32)
    order = jnp.argsort(jnp.where(np.arange(longest)[None] < counts, drawn, jnp.uint32(2**32 - 1)), axis=1)
    return [order[bucket, :count] for bucket, count in enumerate(rows)]


def plan_of(buckets: Sequence[Bucket], seed: jax.Array, step: jax.Array) -> Plan:
    """The epoch that begins at that step, every row of it once; seed: uint32 [] or, of several models, [models]."""
    sizes = tuple((len(bucket), bucket.steps, bucket.capacity) for bucket in buckets)
    return _plan(sizes, sum(bucket.most_steps for bucket in buckets), buckets[0].mesh, seed, step)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _plan(sizes: tuple, most_steps: int, mesh: Mesh | None, seed: jax.Array, step: jax.Array) -> Plan:
    """A small program of its own, for a permutation needs to know its length when it is compiled."""
    counts, steps, capacities = zip(*sizes, strict=True)
    epoch = step // sum(steps)
    order_of = functools.partial(row_orders, counts, epoch=epoch)
    orders = jax.vmap(order_of)(seed) if seed.ndim else order_of(seed)
    padded = [
        jnp.pad(order, [(0, 0)] * (order.ndim - 1) + [(0, capacity - order.shape[-1])]).astype(jnp.int32)
        for order, capacity in zip(orders, capacities, strict=True)
    ]
    every = jnp.pad(visits(steps, epoch), ((0, most_steps - sum(steps)), (0, 0)))
    plan = Plan(tuple(padded), jnp.array(counts, jnp.int32), every, jnp.array([0, sum(steps)], jnp.int32))
    return devices.constrain_replicated(plan, mesh)


def train_epoch(
    config: TrainConfig, state: TrainState, buckets: tuple[Bucket, ...], span: Span | None = None
) -> tuple[TrainState, Metrics]:
    """Every row once, in an order that is a function of (seed, epoch), and metrics [steps], in one dispatch.

    Args:
      state: donated.
      span: the part of the epoch to take; None: all of it.
    """
    plan = plan_of(buckets, state.seed, state.step)
    begin, end = span or (0, sum(bucket.steps for bucket in buckets))
    if span:
        # An array of JAX's, as the plan's own is: with NumPy's in its place the program would be kept a second time.
        given = jnp.asarray(np.array(span, np.int32))
        plan = dataclasses.replace(plan, span=devices.replicate(given, buckets[0].mesh))
    batch_sizes = tuple(bucket.batch_size for bucket in buckets)
    rows = tuple(bucket.rows for bucket in buckets)
    state, metrics = train_steps(config.step, batch_sizes, buckets[0].mesh, state, rows, plan)
    return state, jax.tree.map(lambda values: values[begin:end], metrics)


def compile_ahead(config: TrainConfig, shapes: TrainState, buckets: tuple[Bucket, ...]) -> Future[None]:
    """Compiles `train_epoch` in a thread, while the first weights are drawn.

    JAX keeps a program that has run, so it runs once for no step at all, with zeros in the place of a state.

    Args:
      shapes: of the state.
    """

    def run() -> None:
        zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)
        jax.block_until_ready(train_epoch(config, devices.replicate(zeros, buckets[0].mesh), buckets, (0, 0)))

    return in_thread(run)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def train_steps(
    config: StepConfig, batch_sizes: tuple[int, ...], mesh: Mesh | None, state: TrainState, rows: tuple, plan: Plan
) -> tuple[TrainState, Metrics]:
    """The steps of `plan.span`; metrics [most steps], 0 outside of it."""

    def take(bucket: int, state: TrainState, slot: jax.Array):
        order, count = plan.orders[bucket], plan.counts[bucket]
        return train_step(config, state, batch_of(rows[bucket], order, count, slot, batch_sizes[bucket], mesh))

    return steps_of(take, plan, state, mesh)


def steps_of(take: Callable, plan: Plan, state: Any, mesh: Mesh | None) -> tuple[Any, Metrics]:
    """Inside a compiled program: `take(bucket, state, slot)` -> (state, metrics) for every visit of the plan's span.

    A loop with its ends as arguments, where `lax.scan` would be compiled for a number of steps.
    """
    branches = [functools.partial(take, bucket) for bucket in range(len(plan.orders))]

    def step(number: jax.Array, carried):
        state, metrics = carried
        bucket, slot = plan.visits[number]
        state, new = devices.constrain_replicated(jax.lax.switch(bucket, branches, state, slot), mesh)
        return state, jax.tree.map(lambda values, value: values.at[number].set(value), metrics, new)

    with devices.at_work(mesh):
        shapes = jax.eval_shape(branches[0], state, plan.span[0])[1]
        metrics = jax.tree.map(lambda value: jnp.zeros((len(plan.visits), *value.shape), value.dtype), shapes)
        return jax.lax.fori_loop(plan.span[0], plan.span[1], step, (state, metrics))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_chunk(config: StepConfig, state: TrainState, chunk: Chunk) -> tuple[TrainState, Metrics]:
    """`train_epoch` of a part of an epoch whose batches are streamed."""

    def take(bucket: int, state: TrainState, flat: dict[str, jax.Array]):
        return train_step(config, state, chunk.batch(bucket, flat))

    branches = [functools.partial(take, bucket) for bucket in range(len(chunk.layouts))]

    def body(state, visit):
        return devices.constrain_replicated(jax.lax.switch(visit[0], branches, state, visit[1]), chunk.mesh)

    with devices.at_work(chunk.mesh):
        return jax.lax.scan(body, state, (chunk.bucket, chunk.flat))


def run_spans(
    config: TrainConfig, state: TrainState, train: Dataset, epoch: int, spans: Sequence[Span]
) -> Iterator[tuple[TrainState, Metrics]]:
    """The state and metrics [steps] after each of the spans that an epoch is divided into."""
    if not train.streamed:
        for span in spans:
            state, metrics = train_epoch(config, state, train.buckets, span if len(spans) > 1 else None)
            yield state, metrics
        return
    for chunk in streamed(train.buckets, np.asarray(state.seed), epoch, spans):
        state, metrics = train_chunk(config.step, state, chunk)
        yield state, metrics


def streamed(buckets: Sequence[Rows], seed: np.ndarray, epoch: int, spans: Sequence[Span]) -> Iterator[Chunk]:
    """The batches that `train_epoch` would take, of each span of the epoch's steps."""
    orders = [np.asarray(order) for order in row_orders([len(rows) for rows in buckets], seed, epoch)]
    visited = np.asarray(visits([rows.steps for rows in buckets], epoch))
    return stream.chunks(buckets, orders, [visited[slice(*span)] for span in spans])
