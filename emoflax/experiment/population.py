"""Many models in one compiled program: the train step, mapped over models that differ in numbers alone.

Members may differ in seed, in fold (as long as the folds are of one size) and in the fields of VARIED (but not in
whether one is 0). Each has its own weights, normalisation and order of rows, as if it were trained alone; the rows of a
fold are on the device once, however many members learn from them. With several devices the members are sharded over
them.

The numbers are those of one model at a time but for the order of sums; and but for augmentation that draws noise for a
whole bucket, where folds pad their buckets to different widths.
"""

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from emoflax.audio import augment
from emoflax.batch import Batch
from emoflax.data.features import Features
from emoflax.data.rows import Bucket, batch_of
from emoflax.errors import UserError
from emoflax.experiment.members import Member
from emoflax.experiment.run import Training, train_member
from emoflax.training.epoch import Metrics, Plan, plan_of, steps_of
from emoflax.training.loop import check_finite, numbers_of
from emoflax.training.step import StepConfig, TrainState, train_step

VARIED = (
    "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.clip_norm", "optimizer.warmup_epochs",
    "train.label_smoothing", "train.ema", "model.dropout", "model.attention_cnn.dropout", "model.gru.dropout",
    "model.gru.token_dropout", *(f"augment.{name}" for name in augment.STRENGTHS if name != "noise_snr_db"),
)  # fmt: skip


def train_members(tasks: Sequence[tuple[ConfigDict, Features, Member]], size: int) -> None:
    """Trains what is left of every member and leaves its checkpoints on disk; `size` at once, below 2 one by one."""
    if size > 1 and jax.process_count() > 1:
        raise UserError("--multihost trains one model at a time; set config.train.population=0")
    together = []
    for config, features, member in tasks:
        if size < 2 or config.model.functionals:  # closed-form models have no steps to share
            train_member(config, features, member)
        else:
            together.append((config, features, member))
    for chunk in chunks(together, size):
        with contextlib.ExitStack() as stack:
            runs = [stack.enter_context(Training(*task)) for task in chunk]
            if any(run.train_set.streamed or run.config.profile_steps for run in runs):
                raise UserError(
                    "config.train.population trains on rows that are all in the device's memory, and is not profiled; "
                    "set it to 0, or config.data.resident='yes' and config.profile_steps=()"
                )
            alike: dict[tuple, list[Training]] = {}
            for run in runs:
                if run.done < run.epochs:
                    alike.setdefault(program_of(run), []).append(run)
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


def program_of(run: Training) -> tuple:
    """Runs that agree in it can share a program: one step, rows and weights of one shape, the same epochs to go."""
    rows = [
        (len(b), b.capacity, b.batch_size, *((name, x.shape[2:], str(x.dtype)) for name, x in b.rows.arrays().items()))
        for b in run.train_set.buckets
    ]
    weights = [x.shape for x in jax.tree.leaves(run.state)]
    return run.train_config.step, run.done, run.epochs, tuple(rows), tuple(weights)


def fit(runs: Sequence[Training]) -> None:
    """Trains runs that share a program to their last epoch.

    Raises:
      DivergedError: a member met a number that is not finite; all stop, checkpoints written before are untouched.
    """
    first, folds = runs[0], {run.member.split.fold: run for run in runs}
    buckets, config = first.train_set.buckets, first.train_config.step
    batch_sizes = tuple(bucket.batch_size for bucket in buckets)
    place = np.array([list(folds).index(run.member.split.fold) for run in runs], np.int32)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run.state for run in runs))
    states = jax.device_put(states, sharding(len(runs), "member"))
    rows = jax.device_put(joined([run.train_set.buckets for run in folds.values()]), sharding(len(runs), None))
    for epoch in range(first.done + 1, first.epochs + 1):
        begin = time.perf_counter()
        plan = plan_of_members(buckets, states, place)
        states, metrics = train_epoch(config, batch_sizes, states, rows, plan)
        metrics = {name: values[: first.train_set.steps] for name, values in jax.device_get(metrics).items()}
        seconds = time.perf_counter() - begin
        for number, run in enumerate(runs):
            own = {name: values[:, number] for name, values in metrics.items()}
            check_finite(own, first_step=(epoch - 1) * first.train_set.steps)
            # On one device, as if it had been trained there: its checkpoint must not ask for all of them.
            state = jax.device_put(jax.tree.map(lambda leaf, n=number: leaf[n], states), jax.devices()[0])
            clips = len(runs) * len(run.train_set.clips)  # of all members: they go through them together
            run.keep(epoch, state, numbers_of(epoch, own, clips, seconds))


def plan_of_members(buckets: Sequence[Bucket], states: TrainState, place: np.ndarray) -> Plan:
    """The next epoch of every member; orders [members, capacity] name rows of `joined` arrays.

    Args:
      buckets: of one fold.
      states: each leaf [members, ...].
      place: int32 [members], the place of the member's fold in the joined arrays.
    """
    members = len(place)
    seeds, step = jax.device_put((states.seed, states.step[0]), jax.devices()[0])
    plan = plan_of(buckets, seeds, step)
    offsets = [place[:, None] * bucket.capacity for bucket in buckets]
    orders = [order + offset for order, offset in zip(plan.orders, offsets, strict=True)]
    orders = jax.device_put(tuple(orders), sharding(members, "member"))
    rest = jax.device_put((plan.counts, plan.visits, plan.span), sharding(members, None))
    return Plan(orders, *rest)


def sharding(members: int, axis: str | None) -> NamedSharding:
    """Over as many devices as divide the members evenly."""
    count = max(n for n in range(1, jax.device_count() + 1) if members % n == 0)
    mesh = jax.make_mesh((count,), ("member",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    return NamedSharding(mesh, PartitionSpec(axis))


def joined(folds: Sequence[tuple[Bucket, ...]]) -> tuple[Batch, ...]:
    """The rows of several folds' buckets, one fold's after the other's, padded to one width."""

    def join(*arrays):
        width = max(x.shape[1] for x in arrays) if arrays[0].ndim > 1 else 0
        return np.concatenate(
            [np.pad(x, [(0, 0), (0, width - x.shape[1])] + [(0, 0)] * (x.ndim - 2)) if width else x for x in arrays]
        )

    return tuple(jax.tree.map(join, *(bucket.rows for bucket in same)) for same in zip(*folds, strict=True))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_epoch(
    config: StepConfig, batch_sizes: tuple[int, ...], states: TrainState, rows: tuple[Batch, ...], plan: Plan
) -> tuple[TrainState, Metrics]:
    """`epoch.train_epoch` of every member: states, and metrics [most steps, members].

    Args:
      states: each leaf [members, ...].
      rows: of each bucket, those of all folds.
    """

    def take(bucket: int, states: TrainState, slot: jax.Array):
        def step(state: TrainState, order: jax.Array):
            batch = batch_of(rows[bucket], order, plan.counts[bucket], slot, batch_sizes[bucket], None)
            return train_step(config, state, batch)

        return jax.vmap(step)(states, plan.orders[bucket])

    return steps_of(take, plan, states, None)
