"""AdamW with warm-up, schedule and clipping; for encoders that come trained: freezing, unfreezing, layer-wise rates.

How deep a parameter lies is read off its path. Of an encoder with a list `layers`, `stem` is depth 0 and layer i is
depth i + 1; everything else, the classifier's own parameters included, is the top.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from emoflax.errors import UserError
from emoflax.models import lora

NOT_DECAYED = ("bias", "embedding")
SCHEDULES = ("cosine", "constant")
_LAYER = re.compile(r"(?P<encoder>audio|text)\.layers\.(?P<number>\d+)\.")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What shapes the optimizer's program. The optax chain is made of it inside the compiled step.

    Attributes:
      schedule: a name of SCHEDULES.
      clip: whether gradients are clipped to `Hyperparameters.clip_norm`.
      freeze: parameters that stay as they are; see `is_frozen`. They take no memory for moments.
      by_layer: whether `Hyperparameters.layer_decay` and `.unfreeze_steps` act.
    """

    schedule: str = "cosine"
    clip: bool = True
    freeze: str = ""
    by_layer: bool = False

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"config.optimizer.schedule={self.schedule!r} does not exist; choose one of: {', '.join(SCHEDULES)}"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Numbers of a training, scalars or float32 arrays []: models that differ in them alone share a program.

    Attributes:
      learning_rate: peak.
      weight_decay: of AdamW (Loshchilov & Hutter 2019); on matrices and kernels, not on biases and embeddings.
      clip_norm: largest global norm of the gradients.
      warmup_steps: over which the rate rises from 0.
      total_steps: after which the cosine schedule ends at 0.
      layer_decay: each layer's rate is that of the layer above times this (Clark et al. 2020, arXiv:2003.10555).
      unfreeze_steps: every so many steps one more layer begins to train, from the top (Howard & Ruder 2018,
        arXiv:1801.06146); 0: all from the start. Moments gather meanwhile, so that its first steps are no leap.
      label_smoothing: share of a target that is spread over all classes.
      ema: decay per step of the moving average of the weights.
      contrastive: weight of the supervised contrastive loss.
      temperature: of that loss.
      augmentation, wave_augmentation: strengths of what is switched on in `StepConfig`, by field.
    """

    learning_rate: float | jax.Array = 1e-3
    weight_decay: float | jax.Array = 0.0
    clip_norm: float | jax.Array = 1.0
    warmup_steps: float | jax.Array = 0.0
    total_steps: float | jax.Array = 1.0
    layer_decay: float | jax.Array = 1.0
    unfreeze_steps: float | jax.Array = 0.0
    label_smoothing: float | jax.Array = 0.0
    ema: float | jax.Array = 0.0
    contrastive: float | jax.Array = 0.0
    temperature: float | jax.Array = 0.1
    augmentation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    wave_augmentation: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def learning_rate(schedule: str, numbers: Hyperparameters) -> optax.Schedule:
    """Step -> learning rate: linear warm-up, then cosine to zero or constant.

    optax's schedules want to know their number of steps when a program is compiled; here it is an argument of the
    program, so that folds of different sizes share it.
    """
    warmup = jnp.asarray(numbers.warmup_steps, jnp.float32)
    total = jnp.asarray(numbers.total_steps, jnp.float32)
    if schedule == "cosine":
        warmup = jnp.minimum(warmup, total - 1)

    def rate(step: jax.Array) -> jax.Array:
        rising = step / jnp.maximum(warmup, 1)
        progress = jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1), 0, 1)
        falling = 0.5 * (1 + jnp.cos(math.pi * progress)) if schedule == "cosine" else 1.0
        return numbers.learning_rate * jnp.where(step < warmup, rising, falling)

    return rate


def build(config: OptimizerConfig, numbers: Hyperparameters) -> optax.GradientTransformation:
    """The chain of transformations; its state's shape depends on `config` alone."""

    def decayed(params):
        return _map_paths(lambda path, p: p.ndim > 1 and not any(word in path for word in NOT_DECAYED), params)

    clip = optax.clip_by_global_norm(numbers.clip_norm) if config.clip else optax.identity()
    adamw = optax.adamw(learning_rate(config.schedule, numbers), weight_decay=numbers.weight_decay, mask=decayed)
    chain = optax.chain(clip, adamw)
    if config.freeze:
        kinds = {True: optax.set_to_zero(), False: chain}
        chain = optax.partition(
            kinds, lambda params: _map_paths(lambda path, _: is_frozen(path, config.freeze), params)
        )
    if config.by_layer:
        chain = optax.chain(chain, scale_by_height(numbers.layer_decay, numbers.unfreeze_steps))
    return chain


def scale_by_height(layer_decay: float | jax.Array, unfreeze_steps: float | jax.Array) -> optax.GradientTransformation:
    """Multiplies the update of a parameter `height` layers below the top by layer_decay ** height, or 0 at first."""

    def update(updates, state, params=None):
        del params
        heights = _heights(updates)

        def scaled(update, height):
            share = jnp.asarray(layer_decay**height, update.dtype)
            return update * jnp.where(state.count >= height * unfreeze_steps, share, 0)

        return jax.tree.map(scaled, updates, heights), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


def hold_frozen(params: Any, freeze: str) -> Any:
    """The same parameters, through the frozen ones of which no gradient flows: nothing is computed for them."""
    if not freeze:
        return params
    return _map_paths(lambda path, p: jax.lax.stop_gradient(p) if is_frozen(path, freeze) else p, params)


def is_frozen(path: str, freeze: str) -> bool:
    """Whether `freeze` names the parameter: beginnings of paths, comma-separated, or 'encoders' for all of them.

    '-mlp_norm' keeps parts of that name out of what the others freeze. Adapters are never frozen.
    """
    names = [name.strip() for name in freeze.replace("encoders", "audio,text").split(",")]
    kept = {lora.NAME, *(name[1:] for name in names if name.startswith("-"))}
    return kept.isdisjoint(path.split(".")) and any(f"{path}.".startswith(f"{name}.") for name in names)


def check(params: Any, *, freeze: str, layer_decay: float, unfreeze_epochs: float) -> None:
    """Raises UserError for settings that fit no parameter of the model, or all of them."""
    paths = _paths(params)
    tops = sorted({path.split(".")[0] for path in paths})
    for name in filter(None, map(str.strip, freeze.split(","))):
        known = name[1:] in ".".join(paths).split(".") if name[0] == "-" else any(is_frozen(p, name) for p in paths)
        if not known:
            raise UserError(
                f"config.optimizer.freeze names {name!r}, which the model does not have; name encoders, "
                f"{', '.join(tops)} or longer paths such as audio.stem, separated by commas; -norm keeps parts called "
                "norm out of it"
            )
    if all(is_frozen(path, freeze) for path in paths):
        raise UserError(f"config.optimizer.freeze={freeze!r} leaves nothing to train")
    if not 0 < layer_decay <= 1:
        raise UserError(f"config.optimizer.layer_decay={layer_decay} must be above 0 and at most 1 (1: none)")
    if unfreeze_epochs < 0:
        raise UserError(f"config.optimizer.unfreeze_epochs={unfreeze_epochs} must be 0 (none) or more")
    if (layer_decay != 1 or unfreeze_epochs) and not any(map(_LAYER.match, paths)):
        raise UserError(
            "config.optimizer.layer_decay and .unfreeze_epochs need an encoder made of layers (a Transformer)"
        )


def _heights(params: Any) -> Any:
    """Tree of ints: layers between each parameter and the top, 0 for what belongs to no layer of an encoder."""
    counts: dict[str, int] = {}
    for match in filter(None, map(_LAYER.match, _paths(params))):
        counts[match["encoder"]] = max(counts.get(match["encoder"], 0), int(match["number"]) + 1)

    def height(path, _):
        if match := _LAYER.match(path):
            return counts[match["encoder"]] - int(match["number"])
        encoder, _, rest = path.partition(".")
        return counts[encoder] + 1 if encoder in counts and rest.startswith("stem.") else 0

    return _map_paths(height, params)


def _paths(params: Any) -> list[str]:
    return [_named(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]


def _map_paths(function: Callable[[str, Any], Any], params: Any) -> Any:
    """Applies function(path, leaf); the path as in 'audio.layers.0.attention.query.kernel'."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_named(path), leaf), params)


def _named(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
