"""The training state, one pure step, an epoch as one compiled program, and the loop."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from emoflax import optimizer
from emoflax.augment import Augmentation
from emoflax.augment_wave import WaveAugmentation
from emoflax.data import Bucket, Dataset
from emoflax.errors import DivergedError
from emoflax.losses import cross_entropy, supervised_contrastive, targets


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
    places = slot * bucket.batch_size + jnp.arange(bucket.batch_size)
    batch = jax.tree.map(lambda rows: rows[order[jnp.minimum(places, len(order) - 1)]], bucket.rows)
    return batch | {"weight": jnp.where(places < len(order), batch["weight"], 0.0)}


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


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_epoch(recipe: Recipe, state: TrainState, buckets: tuple[Bucket, ...]) -> tuple[TrainState, dict]:
    """Every row once, in an order that is a function of (seed, epoch); returns metrics [steps]."""
    steps = [bucket.steps for bucket in buckets]
    epoch = state.step // sum(steps)
    orders = row_orders([len(bucket) for bucket in buckets], state.seed, epoch)

    def take(bucket: Bucket, order: jax.Array, state: TrainState, slot: jax.Array):
        return train_step(recipe, state, batch_at(bucket, order, slot))

    branches = [functools.partial(take, bucket, order) for bucket, order in zip(buckets, orders, strict=True)]

    def body(state, visit):
        return jax.lax.switch(visit[0], branches, state, visit[1])

    return jax.lax.scan(body, state, visits(steps, epoch))


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(model: nnx.GraphDef, params: Any, statistics: Any, bucket: Bucket) -> jax.Array:
    """[rows, classes] of a bucket's rows, in their order."""

    def score(slot):
        batch = batch_at(bucket, jnp.arange(len(bucket)), slot)
        return jax.nn.log_softmax(apply(model, params, statistics, batch, None))

    stacked = jax.lax.map(score, jnp.arange(bucket.steps))
    return stacked.reshape(-1, stacked.shape[-1])[: len(bucket)]


def score(model: nnx.GraphDef, state: TrainState, dataset: Dataset) -> np.ndarray:
    """Log-probabilities [clips, classes] float64: the normalised mean over each clip's rows."""
    rows = [log_probabilities(model, state.evaluated, state.statistics, bucket) for bucket in dataset.buckets]
    rows = np.concatenate([np.asarray(part, np.float64) for part in rows])
    clip = np.concatenate([np.asarray(bucket.rows["clip"]) for bucket in dataset.buckets])
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
) -> TrainState:
    """Trains from the state's own epoch to `epochs`; `after_epoch(epoch, state, numbers)` evaluates, saves and logs.

    Raises:
      DivergedError: a loss or gradient is not finite; the checkpoints written before are untouched.
    """
    steps = train.steps
    for epoch in range(int(state.step) // steps + 1, epochs + 1):
        begin = time.perf_counter()
        state, metrics = train_epoch(recipe, state, train.buckets)
        metrics = jax.device_get(metrics)
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
