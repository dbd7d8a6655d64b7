"""The training state and one pure step of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from emoflax.audio.augment import Augmentation
from emoflax.audio.augment_wave import WaveAugmentation
from emoflax.data.rows import Bucket, batch_places
from emoflax.parallel import mesh as devices
from emoflax.training import optimizer
from emoflax.training.losses import cross_entropy, supervised_contrastive, targets


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """The arrays of a model that predictions need: its weights and its normalisation statistics."""

    params: Any
    statistics: Any

    @classmethod
    def of(cls, model: nnx.Module) -> "Weights":
        _, params, statistics = nnx.split(model, nnx.Param, ...)
        return cls(params, statistics)

    @property
    def evaluated(self) -> Any:
        return self.params


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

    @property
    def weights(self) -> Weights:
        return Weights(self.evaluated, self.statistics)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
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


def train_step(train_config: TrainConfig, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict]:
    """One update. Pure: the randomness is a function of (seed, step)."""
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    model = nnx.merge(train_config.model, state.params, state.statistics, copy=True)
    batch = batch | {"target": targets(batch["label"], train_config.classes, train_config.label_smoothing)}
    batch = model.to_log_mel(train_config.wave_augmentation(jax.random.fold_in(key, 0x3A7E), batch))
    known = (model.normalise.mean[...], model.normalise.std[...]) if model.normalise else (None, None)
    batch = train_config.augmentation(jax.random.fold_in(key, 0xA06), batch, *known)

    def loss_of(params):
        params = optimizer.hold_frozen(params, train_config.freeze)
        if not train_config.contrastive:
            logits = apply(train_config.model, params, state.statistics, batch, key)
            return cross_entropy(logits, batch["target"], batch["weight"])
        logits, vectors = nnx.merge(train_config.model, params, state.statistics, copy=True).compared(batch, key)
        contrast = supervised_contrastive(vectors, batch["label"], batch["weight"], train_config.temperature)
        return cross_entropy(logits, batch["target"], batch["weight"]) + train_config.contrastive * contrast

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    updates, opt_state = train_config.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        # Early on the average follows closely, so that it never remembers the random start.
        decay = jnp.minimum(train_config.ema, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, average, 1 - decay)
    state = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, average=average)
    return state, {"loss": loss, "grad_norm": optax.tree.norm(gradients)}


def batch_at(bucket: Bucket, order: jax.Array, slot: jax.Array) -> dict[str, jax.Array]:
    """Batch number `slot` of the rows in `order` [rows]; places past its end repeat the last with weight 0."""
    places, counts = batch_places(slot, bucket.batch_size, len(order), bucket.mesh)
    # Of rows that are dealt out, each device picks its own; their sum over the devices is the batch.
    batch = jax.tree.map(lambda rows: rows[order[places]], bucket.rows)
    return devices.constrain_sharded(batch | {"weight": jnp.where(counts, batch["weight"], 0.0)}, bucket.mesh)
