"""A config's optimizer, losses and augmentation, as typed settings of the train step."""

import dataclasses
import math

from flax import nnx
from ml_collections import ConfigDict

from emoflax.audio import augment, augment_wave
from emoflax.audio.augment import Augmentation
from emoflax.audio.augment_wave import WaveAugmentation
from emoflax.audio.frontend import UNIT_DB, band_edges_hz
from emoflax.errors import UserError
from emoflax.experiment.model import absent_of
from emoflax.training import optimizer
from emoflax.training.optimizer import Hyperparameters, OptimizerConfig
from emoflax.training.step import StepConfig, TrainConfig


def train_config_of(config: ConfigDict, model: nnx.Module, steps_per_epoch: int) -> TrainConfig:
    if config.train.contrastive and config.augment.mixup:
        raise UserError("config.train.contrastive compares clips of one emotion; set config.augment.mixup to 0 with it")
    tuning = {name: config.optimizer[name] for name in ("freeze", "layer_decay", "unfreeze_epochs")}
    optimizer.check(nnx.state(model, nnx.Param), **tuning)
    augmentation, strengths = augment.program_and_strengths(augmentation_of(config), augment.STRENGTHS)
    wave_augmentation, wave_strengths = augment.program_and_strengths(
        wave_augmentation_of(config), augment_wave.STRENGTHS
    )
    step = StepConfig(
        model=nnx.graphdef(model),
        optimizer=OptimizerConfig(
            schedule=config.optimizer.schedule,
            clip=config.optimizer.clip_norm > 0,
            freeze=config.optimizer.freeze,
            by_layer=config.optimizer.layer_decay != 1 or config.optimizer.unfreeze_epochs > 0,
        ),
        classes=model.classes,
        average=config.train.ema > 0,
        contrastive=config.train.contrastive > 0,
        augmentation=augmentation,
        wave_augmentation=wave_augmentation,
    )
    numbers = hyperparameters_of(config, steps_per_epoch)
    return TrainConfig(step, dataclasses.replace(numbers, augmentation=strengths, wave_augmentation=wave_strengths))


def hyperparameters_of(config: ConfigDict, steps_per_epoch: int) -> Hyperparameters:
    return Hyperparameters(
        learning_rate=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
        warmup_steps=round(config.optimizer.warmup_epochs * steps_per_epoch),
        total_steps=config.train.epochs * steps_per_epoch,
        layer_decay=config.optimizer.layer_decay,
        unfreeze_steps=math.ceil(config.optimizer.unfreeze_epochs * steps_per_epoch),
        label_smoothing=config.train.label_smoothing,
        ema=config.train.ema,
        contrastive=config.train.contrastive,
        temperature=config.train.temperature,
    )


def augmentation_of(config: ConfigDict) -> Augmentation:
    if config.augment.mixup and config.model.audio and config.model.text:
        raise UserError("config.augment.mixup mixes sounds and cannot mix words; set it to 0 for a model of both")
    centres_hz = band_edges_hz(config.audio.mels, config.audio.fmin_hz, config.audio.fmax_hz)[1:-1].tolist()
    unit_db = UNIT_DB[config.audio.frontend]
    bands = {"bands": config.audio.mels, "band_hz": tuple(centres_hz)}
    return Augmentation(**_strengths(config.augment), **bands, unit_db=unit_db, absent=absent_of(config))


def wave_augmentation_of(config: ConfigDict) -> WaveAugmentation:
    found = WaveAugmentation(**_strengths(config.augment.wave), sample_rate_hz=config.audio.sample_rate_hz)
    if found.acts and config.data.store != "wave":
        raise UserError("config.augment.wave acts on waveforms; set config.data.store='wave' to keep those")
    return found


def _strengths(fields: ConfigDict) -> dict:
    """Fields as an augmentation takes them: ranges are tuples, whatever JSON made of them."""
    fields = {name: value for name, value in fields.items() if not isinstance(value, ConfigDict)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
