"""Many models in one compiled program: train.py's step, mapped over models that differ in numbers alone.

Members may differ in seed, in fold (as long as the folds are of one size) and in the fields of VARIED. Each has its own
weights, normalisation and order of rows, as if it were trained alone; the rows of a fold are on the device once,
however many members learn from them. With several devices the members are dealt out to them.

The numbers are those of one model at a time but for the order of sums; and but for augmentation that draws noise for a
whole bucket, where folds pad their buckets to different widths.
"""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from emoflax.data.dataset import Bucket
from emoflax.data.features import Features
from emoflax.errors import UserError
from emoflax.experiment import run as experiment
from emoflax.experiment.run import Member, Training
from emoflax.experiment.train_config import train_config_of
from emoflax.training import loop as train
from emoflax.training.step import TrainConfig, TrainState, batch_at, train_step

VARIED = ("optimizer.learning_rate", "optimizer.weight_decay", "train.label_smoothing")


def train_members(tasks: Sequence[tuple[ConfigDict, Features, Member]], size: int) -> None:
    """Trains what is left of every member and leaves its checkpoints on disk; `size` at once, below 2 one by one."""
    if size > 1 and jax.process_count() > 1:
        raise UserError("--multihost trains one model at a time; set config.train.population=0")
    if size < 2:
        for number, task in enumerate(tasks, 1):
            experiment.train_member(*task)
            experiment.let_programs_go(number)
        return
    for chunk in chunks(tasks, size):
        with contextlib.ExitStack() as stack:
            runs = [stack.enter_context(Training(*task)) for task in chunk]
            if any(run.train_set.streamed or run.config.profile_steps for run in runs):
                raise UserError(
                    "config.train.population trains on rows that are all in the device's memory, and is not profiled; "
                    "set it to 0, or config.data.resident='yes' and config.profile_steps=()"
                )
            alike: dict[str, list[Training]] = {}
            for run in runs:
                if run.done < run.epochs:
                    alike.setdefault(shape_of(run), []).append(run)
            for group in alike.values():
                fit(group)


def chunks(tasks: Sequence[tuple], size: int) -> Iterator[list[tuple]]:
    """Tasks whose configs and numbers of clips let them share a program, `size` at a time."""
    alike: dict[str, list[tuple]] = {}
    for config, features, member in tasks:
        same = config.copy_and_resolve_references()
        same.update_from_flattened_dict(dict.fromkeys(VARIED, 0.0))
        key = f"{len(member.split.train)} {member.epochs} {same.to_json_best_effort()}"
        alike.setdefault(key, []).append((config, features, member))
    for group in alike.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def shape_of(run: Training) -> str:
    """Runs of one shape can share a program: weights and rows are of the same shapes, the same epochs are to go."""
    rows = [
        [len(b), b.batch_size, sorted((name, x.shape[2:]) for name, x in b.rows.items())] for b in run.train_set.buckets
    ]
    return json.dumps([run.done, run.epochs, rows, [x.shape for x in jax.tree.leaves(run.state)]])


def fit(runs: Sequence[Training]) -> None:
    """Trains runs of one shape to their last epoch.

    Raises:
      DivergedError: a member met a number that is not finite; all stop, checkpoints written before are untouched.
    """
    first, folds = runs[0], {run.member.split.fold: run for run in runs}
    rows = tuple(len(bucket) for bucket in first.train_set.buckets)
    build = functools.partial(train_config_of, first.config, first.model, first.train_set.steps)
    place = np.array([list(folds).index(run.member.split.fold) for run in runs], np.int32)
    varied = {field: np.array([value(run.config, field) for run in runs], np.float32) for field in VARIED}
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run.state for run in runs))
    states, place, varied = jax.device_put((states, place, varied), sharding(len(runs), "member"))
    buckets = jax.device_put(joined([run.train_set.buckets for run in folds.values()]), sharding(len(runs), None))
    for epoch in range(first.done + 1, first.epochs + 1):
        begin = time.perf_counter()
        states, metrics = train_epoch(build, rows, states, buckets, place, varied, epoch - 1)
        metrics = jax.device_get(metrics)
        seconds = time.perf_counter() - begin
        for number, run in enumerate(runs):
            own = {name: values[:, number] for name, values in metrics.items()}
            train.check_finite(own, first_step=(epoch - 1) * first.train_set.steps)
            # On one device, as if it had been trained there: its checkpoint must not ask for all of them.
            state = jax.device_put(jax.tree.map(lambda leaf, n=number: leaf[n], states), jax.devices()[0])
            clips = len(runs) * len(run.train_set.clips)  # of all members: they go through them together
            run.keep(epoch, state, train.numbers_of(epoch, own, clips, seconds))


def value(config: ConfigDict, field: str) -> float:
    group, name = field.split(".")
    return config[group][name]


def sharding(members: int, axis: str | None) -> NamedSharding:
    """Over as many devices as the members can be dealt out to evenly."""
    count = max(n for n in range(1, jax.device_count() + 1) if members % n == 0)
    mesh = jax.make_mesh((count,), ("member",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    return NamedSharding(mesh, PartitionSpec(axis))


def joined(folds: Sequence[tuple[Bucket, ...]]) -> tuple[Bucket, ...]:
    """The buckets of several folds, one fold's rows after the other's, padded to one width."""

    def join(*arrays):
        width = max(x.shape[1] for x in arrays) if arrays[0].ndim > 1 else 0
        return np.concatenate(
            [np.pad(x, [(0, 0), (0, width - x.shape[1])] + [(0, 0)] * (x.ndim - 2)) if width else x for x in arrays]
        )

    return tuple(
        dataclasses.replace(same[0], rows=jax.tree.map(join, *(bucket.rows for bucket in same)))
        for same in zip(*folds, strict=True)
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_epoch(
    build: Callable[[Mapping], TrainConfig],
    rows: tuple[int, ...],
    states: TrainState,
    buckets: tuple[Bucket, ...],
    place: jax.Array,
    varied: Mapping[str, jax.Array],
    epoch: jax.Array,
) -> tuple[TrainState, dict]:
    """`train.train_epoch` of every member.

    Args:
      build: the recipe of a member, from its values of the fields in VARIED.
      rows: of each bucket in one fold; `buckets` hold those of all folds, one after the other.
      states: each leaf [members, ...].
      place: int32 [members], the member's fold.
      varied: field -> float32 [members].

    Returns:
      states, and metrics [steps, members].
    """
    steps = [-(-count // bucket.batch_size) for count, bucket in zip(rows, buckets, strict=True)]
    orders = jax.vmap(lambda seed: train.row_orders(rows, seed, epoch))(states.seed)
    orders = [order + count * place[:, None] for order, count in zip(orders, rows, strict=True)]

    def step(bucket: Bucket, slot: jax.Array, state: TrainState, own: Mapping, order: jax.Array):
        return train_step(build(own), state, batch_at(bucket, order, slot))

    def take(bucket: Bucket, order: jax.Array, states: TrainState, slot: jax.Array):
        return jax.vmap(functools.partial(step, bucket, slot))(states, varied, order)

    branches = [functools.partial(take, bucket, order) for bucket, order in zip(buckets, orders, strict=True)]

    def body(states, visit):
        return jax.lax.switch(visit[0], branches, states, visit[1])

    return jax.lax.scan(body, states, train.visits(steps, epoch))
