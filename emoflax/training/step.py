"""The training state and one pure step of it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from emoflax.audio.augment import Augmentation
from emoflax.audio.augment_wave import WaveAugmentation
from emoflax.batch import Batch
from emoflax.training import optimizer
from emoflax.training.losses import cross_entropy, supervised_contrastive, targets
from emoflax.training.optimizer import Hyperparameters, OptimizerConfig


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
    numbers: Hyperparameters

    @property
    def evaluated(self) -> Any:
        """The weights that are scored and used."""
        return self.params if self.average is None else self.average

    @property
    def weights(self) -> Weights:
        return Weights(self.evaluated, self.statistics)


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What shapes the compiled program of a step.

    It is a static argument, compared by value: models that agree in it, such as the seeds and folds of one config,
    share one program. What may differ between them is in TrainState.

    Attributes:
      average: whether a moving average of the weights is kept.
      contrastive: whether a supervised contrastive loss is added to the cross-entropy.
    """

    model: nnx.GraphDef
    optimizer: OptimizerConfig
    classes: int
    average: bool = False
    contrastive: bool = False
    augmentation: Augmentation = Augmentation()
    wave_augmentation: WaveAugmentation = WaveAugmentation()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model trains: what its program is compiled for, and the numbers that the program takes."""

    step: StepConfig
    numbers: Hyperparameters

    @property
    def model(self) -> nnx.GraphDef:
        return self.step.model

    def init(self, model: nnx.Module, seed: int) -> TrainState:
        _, params, statistics = nnx.split(model, nnx.Param, ...)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            params=params,
            statistics=statistics,
            opt_state=_opt_state(self.step.optimizer, self.numbers, params),
            average=jax.tree.map(jnp.copy, params) if self.step.average else None,
            numbers=jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), self.numbers),
        )

    def shapes(self, model: nnx.Module) -> TrainState:
        """`init` with shapes in the place of arrays, of a model that may have no more than shapes itself."""
        return jax.eval_shape(lambda arrays: self.init(nnx.merge(self.model, arrays), 0), nnx.state(model))


@functools.partial(jax.jit, static_argnums=0)
def _opt_state(config: OptimizerConfig, numbers: Hyperparameters, params: Any) -> optax.OptState:
    """The optimizer's first state: of one program, not of one for each shape."""
    return optimizer.build(config, numbers).init(params)


def apply(model: nnx.GraphDef, params: Any, statistics: Any, batch: Batch, key: jax.Array | None) -> jax.Array:
    """Logits [batch, classes]."""
    # copy=True: inside a trace, nnx refuses to touch variables of an outer one.
    return nnx.merge(model, params, statistics, copy=True)(batch, key)


def train_step(config: StepConfig, state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
    """One update. Pure: the randomness is a function of (seed, step). Metrics are scalars 'loss' and 'grad_norm'."""
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    batch = augmented(config, state, batch, key)

    def loss_of(params):
        params = optimizer.hold_frozen(params, config.optimizer.freeze)
        if not config.contrastive:
            logits = apply(config.model, params, state.statistics, batch, key)
            return cross_entropy(logits, batch.target, batch.weight)
        model = nnx.merge(config.model, params, state.statistics, copy=True)
        logits, vectors = model.compared(batch, key)
        contrast = supervised_contrastive(vectors, batch.label, batch.weight, state.numbers.temperature)
        return cross_entropy(logits, batch.target, batch.weight) + state.numbers.contrastive * contrast

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    chain = optimizer.build(config.optimizer, state.numbers)
    updates, opt_state = chain.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        # Early on the average follows closely, so that it never remembers the random start.
        decay = jnp.minimum(state.numbers.ema, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, average, 1 - decay)
    state = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, average=average)
    return state, {"loss": loss, "grad_norm": optax.tree.norm(gradients)}


def augmented(config: StepConfig, state: TrainState, batch: Batch, key: jax.Array) -> Batch:
    """The batch as the loss takes it: with targets, log-mels of its waveforms, and augmentation."""
    model = nnx.merge(config.model, state.params, state.statistics, copy=True)
    batch = batch.replace(target=targets(batch.label, config.classes, state.numbers.label_smoothing))
    wave_augmentation = dataclasses.replace(config.wave_augmentation, **state.numbers.wave_augmentation)
    batch = model.to_log_mel(wave_augmentation(jax.random.fold_in(key, 0x3A7E), batch))
    known = (model.normalise.mean[...], model.normalise.std[...]) if model.normalise else (None, None)
    augmentation = dataclasses.replace(config.augmentation, **state.numbers.augmentation)
    return augmentation(jax.random.fold_in(key, 0xA06), batch, *known)
