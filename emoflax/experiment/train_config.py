"""A config's optimizer, losses and augmentation, as typed settings of the train step."""

import math
from collections.abc import Mapping

import jax
from flax import nnx
from ml_collections import ConfigDict

from emoflax.audio.augment import Augmentation
from emoflax.audio.augment_wave import WaveAugmentation
from emoflax.audio.frontend import UNIT_DB, band_edges_hz
from emoflax.errors import UserError
from emoflax.training import optimizer
from emoflax.training.step import TrainConfig


def train_config_of(
    config: ConfigDict, model: nnx.Module, steps_per_epoch: int, own: Mapping[str, jax.Array] | None = None
) -> TrainConfig:
    """`own`: field -> array, in the place of the config's number, where a population trains (`population.VARIED`)."""
    own = own or {}
    if config.train.contrastive and config.augment.mixup:
        raise UserError("config.train.contrastive compares clips of one emotion; set config.augment.mixup to 0 with it")
    if config.train.contrastive < 0 or config.train.temperature <= 0 or config.train.projection < 1:
        raise UserError("config.train.contrastive must be 0 (off) or more, .temperature above 0, .projection 1 or more")
    rate = optimizer.learning_rate(
        peak=own.get("optimizer.learning_rate", config.optimizer.learning_rate),
        schedule=config.optimizer.schedule,
        warmup_epochs=config.optimizer.warmup_epochs,
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    tuning = {name: config.optimizer[name] for name in ("freeze", "layer_decay", "unfreeze_epochs")}
    optimizer.check(nnx.state(model, nnx.Param), **tuning)
    chain = optimizer.build(
        rate,
        weight_decay=own.get("optimizer.weight_decay", config.optimizer.weight_decay),
        clip_norm=config.optimizer.clip_norm,
        freeze=config.optimizer.freeze,
        layer_decay=config.optimizer.layer_decay,
        # At least one step, however few an epoch has: the optimizer's state must have the same shape in evaluation.
        unfreeze_steps=math.ceil(config.optimizer.unfreeze_epochs * steps_per_epoch),
    )
    return TrainConfig(
        nnx.graphdef(model),
        chain,
        classes=model.classes,
        label_smoothing=own.get("train.label_smoothing", config.train.label_smoothing),
        ema=config.train.ema,
        augmentation=Augmentation() if config.model.functionals else augmentation_of(config),
        wave_augmentation=wave_augmentation_of(config),
        freeze=config.optimizer.freeze,
        contrastive=0.0 if config.model.functionals else config.train.contrastive,
        temperature=config.train.temperature,
    )


def augmentation_of(config: ConfigDict) -> Augmentation:
    if config.augment.mixup and config.model.audio and config.model.text:
        raise UserError("config.augment.mixup mixes sounds and cannot mix words; set it to 0 for a model of both")
    centres_hz = band_edges_hz(config.audio.mels, config.audio.fmin_hz, config.audio.fmax_hz)[1:-1].tolist()
    unit_db = UNIT_DB[config.audio.frontend]
    bands = {"bands": config.audio.mels, "band_hz": tuple(centres_hz)}
    return Augmentation(**_strengths(config.augment), **bands, unit_db=unit_db)


def wave_augmentation_of(config: ConfigDict) -> WaveAugmentation:
    found = WaveAugmentation(**_strengths(config.augment.wave), sample_rate_hz=config.audio.sample_rate_hz)
    if found.on and config.data.store != "wave":
        raise UserError("config.augment.wave acts on waveforms; set config.data.store='wave' to keep those")
    return found


def _strengths(fields: ConfigDict) -> dict:
    """Fields as an augmentation takes them: ranges are tuples, whatever JSON made of them."""
    fields = {name: value for name, value in fields.items() if not isinstance(value, ConfigDict)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
