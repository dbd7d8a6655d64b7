"""The training state, one pure step, an epoch as one compiled program, and the loop."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from emoflax.audio.augment import Augmentation
from emoflax.audio.augment_wave import WaveAugmentation
from emoflax.data import stream
from emoflax.data.dataset import Dataset
from emoflax.data.rows import Bucket, Rows, batch_places
from emoflax.data.stream import Chunk
from emoflax.errors import DivergedError
from emoflax.parallel import mesh as devices
from emoflax.training import optimizer
from emoflax.training.losses import cross_entropy, supervised_contrastive, targets
from emoflax.training.monitor import Profile


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes or needs. `average`: moving average of the weights, or None."""

    step: jax.Array
    seed: jax.Array
    params: Any
    statistics: Any
    opt_state: optax.OptState
    average: Any

    @property
    def evaluated(self) -> Any:
        """The weights that are scored and used."""
        return self.params if self.average is None else self.average


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is fixed while a model trains; the arrays are in TrainState."""

    model: nnx.GraphDef
    optimizer: optax.GradientTransformation
    classes: int
    label_smoothing: float
    ema: float
    augmentation: Augmentation = Augmentation()
    wave_augmentation: WaveAugmentation = WaveAugmentation()
    freeze: str = ""
    contrastive: float = 0.0
    temperature: float = 0.1

    def init(self, model: nnx.Module, seed: int) -> TrainState:
        _, params, statistics = nnx.split(model, nnx.Param, ...)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            params=params,
            statistics=statistics,
            opt_state=self.optimizer.init(params),
            average=jax.tree.map(jnp.copy, params) if self.ema else None,
        )


def apply(model: nnx.GraphDef, params: Any, statistics: Any, batch: dict, key: jax.Array | None) -> jax.Array:
    """Logits [batch, classes] of a batch as `Bucket.rows` describes it."""
    # copy=True: inside a trace, nnx refuses to touch variables of an outer one.
    return nnx.merge(model, params, statistics, copy=True)(batch, key)


def train_step(recipe: Recipe, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict]:
    """One update. Pure: the randomness is a function of (seed, step)."""
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    model = nnx.merge(recipe.model, state.params, state.statistics, copy=True)
    batch = batch | {"target": targets(batch["label"], recipe.classes, recipe.label_smoothing)}
    batch = model.hear(recipe.wave_augmentation(jax.random.fold_in(key, 0x3A7E), batch))
    known = (model.normalise.mean[...], model.normalise.std[...]) if model.normalise else (None, None)
    batch = recipe.augmentation(jax.random.fold_in(key, 0xA06), batch, *known)

    def loss_of(params):
        params = optimizer.hold_frozen(params, recipe.freeze)
        if not recipe.contrastive:
            logits = apply(recipe.model, params, state.statistics, batch, key)
            return cross_entropy(logits, batch["target"], batch["weight"])
        logits, vectors = nnx.merge(recipe.model, params, state.statistics, copy=True).compared(batch, key)
        contrast = supervised_contrastive(vectors, batch["label"], batch["weight"], recipe.temperature)
        return cross_entropy(logits, batch["target"], batch["weight"]) + recipe.contrastive * contrast

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        # Early on the average follows closely, so that it never remembers the random start.
        decay = jnp.minimum(recipe.ema, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, average, 1 - decay)
    state = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, average=average)
    return state, {"loss": loss, "grad_norm": optax.tree.norm(gradients)}


def batch_at(bucket: Bucket, order: jax.Array, slot: jax.Array) -> dict[str, jax.Array]:
    """Batch number `slot` of the rows in `order` [rows]; places past its end repeat the last with weight 0."""
    places, counts = batch_places(slot, bucket.batch_size, len(order), bucket.mesh)
    # Of rows that are dealt out, each device picks its own; their sum over the devices is the batch.
    batch = jax.tree.map(lambda rows: rows[order[places]], bucket.rows)
    return devices.keep_dealt_out(batch | {"weight": jnp.where(counts, batch["weight"], 0.0)}, bucket.mesh)


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
    recipe: Recipe, state: TrainState, buckets: tuple[Bucket, ...], span: tuple[int, int] | None = None
) -> tuple[TrainState, dict]:
    """Every row once, in an order that is a function of (seed, epoch); returns metrics [steps].

    Args:
      span: the epoch's first step to take, and the one to stop before; None: all.
    """
    steps = [bucket.steps for bucket in buckets]
    epoch = state.step // sum(steps)
    orders = row_orders([len(bucket) for bucket in buckets], state.seed, epoch)

    def take(bucket: Bucket, order: jax.Array, state: TrainState, slot: jax.Array):
        return train_step(recipe, state, batch_at(bucket, order, slot))

    branches = [functools.partial(take, bucket, order) for bucket, order in zip(buckets, orders, strict=True)]

    def body(state, visit):
        return jax.lax.switch(visit[0], branches, state, visit[1])

    return _scan(body, state, visits(steps, epoch)[slice(*span or (None,))], buckets[0].mesh)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_chunk(recipe: Recipe, state: TrainState, chunk: Chunk) -> tuple[TrainState, dict]:
    """`train_epoch` of a part of an epoch whose batches are streamed."""

    def take(bucket: int, state: TrainState, flat: dict[str, jax.Array]):
        return train_step(recipe, state, chunk.batch(bucket, flat))

    branches = [functools.partial(take, bucket) for bucket in range(len(chunk.layouts))]

    def body(state, visit):
        return jax.lax.switch(visit[0], branches, state, visit[1])

    return _scan(body, state, (chunk.bucket, chunk.flat), chunk.mesh)


def _scan(body: Callable, state: TrainState, visited: Any, mesh: Mesh | None) -> tuple[TrainState, dict]:
    """Steps one after the other; weights and metrics are the same on every device."""
    with devices.at_work(mesh):
        return jax.lax.scan(lambda *step: devices.keep_everywhere(body(*step), mesh), state, visited)


def run_epoch(
    recipe: Recipe, state: TrainState, train: Dataset, epoch: int, profile: Profile
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
            state, metrics = train_chunk(recipe, state, chunk)
        else:
            state, metrics = train_epoch(recipe, state, train.buckets, span if len(spans) > 1 else None)
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


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(model: nnx.GraphDef, params: Any, statistics: Any, bucket: Bucket) -> jax.Array:
    """[rows, classes] of a bucket's rows, in their order."""

    def score(slot):
        batch = batch_at(bucket, jnp.arange(len(bucket)), slot)
        return jax.nn.log_softmax(apply(model, params, statistics, batch, None))

    with devices.at_work(bucket.mesh):
        stacked = jax.lax.map(score, jnp.arange(bucket.steps))
    rows = stacked[:, : bucket.batch_size].reshape(-1, stacked.shape[-1])[: len(bucket)]
    return devices.keep_everywhere(rows, bucket.mesh)


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities_of_chunk(model: nnx.GraphDef, params: Any, statistics: Any, chunk: Chunk) -> jax.Array:
    """[steps, lanes, classes] of batches of one bucket."""

    def score(flat):
        return jax.nn.log_softmax(apply(model, params, statistics, chunk.batch(0, flat), None))

    with devices.at_work(chunk.mesh):
        return devices.keep_everywhere(jax.lax.map(score, chunk.flat), chunk.mesh)


def rows_log_probabilities(model: nnx.GraphDef, state: TrainState, rows: Bucket | Rows) -> np.ndarray:
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


def score(model: nnx.GraphDef, state: TrainState, dataset: Dataset) -> np.ndarray:
    """Log-probabilities [clips, classes] float64: the normalised mean over each clip's rows."""
    rows = np.concatenate([rows_log_probabilities(model, state, bucket) for bucket in dataset.buckets])
    clip = np.concatenate(dataset.row_clips)
    total = np.zeros((len(dataset.clips), rows.shape[1]))
    np.add.at(total, clip, rows)
    mean = total / np.bincount(clip)[:, None]
    return mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)


def fit(
    recipe: Recipe,
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
        state, metrics = run_epoch(recipe, state, train, epoch - 1, profile)
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
