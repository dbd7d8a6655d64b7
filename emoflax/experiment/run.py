"""A config becomes a run: features, one model per seed and fold, and where each of them keeps its files.

    runs/<name>-<corpus>-<protocol>/seed0-fold1/   checkpoints, metrics.jsonl, tensorboard of one model
    runs/<name>-<corpus>-<protocol>/               report over the seeds and folds of one command
"""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from emoflax import models, pretrained
from emoflax.audio.augment import Augmentation
from emoflax.audio.augment_wave import WaveAugmentation
from emoflax.audio.frontend import UNIT_DB, LogMel, band_edges_hz
from emoflax.audio.pcen import Pcen
from emoflax.audio.test_time import Views
from emoflax.data import dataset as data
from emoflax.data import splits, subwords
from emoflax.data.clip import Corpus, channels, functionals_count
from emoflax.data.dataset import Dataset, Features
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.experiment import closed_form as solved
from emoflax.experiment import identity
from emoflax.parallel import mesh as devices
from emoflax.parallel import multihost
from emoflax.reporting import metrics
from emoflax.training import loop as train
from emoflax.training import optimizer
from emoflax.training.checkpoint import Checkpoints
from emoflax.training.monitor import Monitor, Profile


@dataclasses.dataclass(frozen=True)
class Member:
    """One seed of one fold, and the folder that is its own. `epochs`: stop after so many, if not after all of them."""

    seed: int
    split: Split
    folder: pathlib.Path
    epochs: int | None = None

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.folder / "checkpoints"


def run_folder(workdir: pathlib.Path, config: ConfigDict, corpus: Corpus) -> pathlib.Path:
    return workdir / f"{config.name}-{corpus.name}-{splits.resolve_protocol(config.split.protocol, corpus)}"


def members(config: ConfigDict, corpus: Corpus, folder: pathlib.Path) -> list[Member]:
    """Every seed and fold that the config asks for."""
    made = folds(config, corpus, config.split.dev_share)
    return [
        Member(int(seed), split, folder / f"seed{seed}-fold{split.fold}") for seed in config.seeds for split in made
    ]


def folds(config: ConfigDict, corpus: Corpus, dev_share: float) -> list[Split]:
    """The folds that the config asks for."""
    protocol = splits.resolve_protocol(config.split.protocol, corpus)
    lists = {part: config.split[f"{part}_speakers"] for part in ("train", "dev", "test")}
    return [
        splits.make_split(corpus, protocol, fold, dev_share, lists)
        for fold in splits.parse_folds(config.split.fold, protocol, corpus)
    ]


def features_of(config: ConfigDict, corpus: Corpus) -> Features:
    """Opens the shards that the model needs, computing what is missing."""
    from emoflax.precompute import (
        build,  # audio libraries come with it; a session that never gets here does not pay for them
    )

    precompute, cache_dir = config.precompute.to_dict(), config.data.cache_dir
    by_speaker, shards = splits.by_speaker(config.split.protocol), {}
    if by_speaker:
        check_by_speaker(config)
    if config.model.audio:
        if not corpus.has_audio:
            raise UserError(f"config.model.audio={config.model.audio!r}, but corpus {corpus.name} has no recordings")
        if config.data.store not in ("logmel", "wave"):
            raise UserError(f"config.data.store={config.data.store!r}; choose 'logmel' or 'wave'")
        compute = build.waves if config.data.store == "wave" else build.log_mels
        shards[config.data.store] = compute(corpus, config.audio.to_dict(), cache_dir, precompute)
    if config.model.functionals:
        solved.check(config)
    if config.model.functionals in models.HEAR_FRAMES:
        for speed, audio in solved.audio_of_speeds(config).items():
            kind = f"logmel@{speed:g}" if shards else "logmel"
            shards[kind] = build.log_mels(corpus, audio, cache_dir, precompute)
    elif config.model.functionals:
        shards["functionals"] = build.functionals(
            corpus, config.audio.to_dict(), config.functionals.to_dict(), cache_dir, precompute
        )
    if config.model.text:
        shards["tokens"] = build.tokens(corpus, config.text.to_dict(), cache_dir, precompute)
    return Features(corpus, shards, by_speaker)


def check_by_speaker(config: ConfigDict) -> None:
    if not (config.model.audio or config.model.functionals):
        raise UserError(f"config.split.protocol={config.split.protocol!r} normalises sounds; this model hears none")
    if config.model.audio and (config.data.store != "logmel" or config.audio.frontend != "librosa"):
        raise UserError(
            f"config.split.protocol={config.split.protocol!r} needs config.data.store='logmel' and "
            "config.audio.frontend='librosa': it changes the scale that others expect"
        )


def settle(config: ConfigDict) -> None:
    """Sets the fields that weights and tokenizers from elsewhere decide, so that a checkpoint describes itself."""
    for kind, path in config.model.pretrained.items():
        if path and not config.model[kind]:
            raise UserError(f"config.model.pretrained.{kind} is set, but config.model.{kind} names no encoder")
        decided = pretrained.fields(config.model[kind], path) if path else {}
        for field, value in decided.items():
            logging.info("%s decides: config.%s=%s", path, field, value)
        config.update_from_flattened_dict(decided)
    if config.text.tokenizer:
        config.text.tokenizer = subwords.read(config.text.tokenizer)


def max_frames(config: ConfigDict) -> int:
    return math.ceil(config.data.max_s * 1000 / config.audio.hop_ms)


def vocabulary_of(config: ConfigDict, features: Features, train: np.ndarray) -> tuple[str, ...]:
    """All tokens of the tokenizer, where there is one; else the words of the training clips."""
    if not config.model.text:
        return ()
    if config.text.tokenizer:
        return subwords.vocabulary(config.text.tokenizer)
    return data.build_vocabulary(features, train, config.text.min_count)


def dataset_of(
    config: ConfigDict, features: Features, positions: np.ndarray, vocabulary, weights=None, mesh: Mesh | None = None
) -> Dataset:
    return data.load(
        features,
        positions,
        max_frames=max_frames(config),
        max_tokens=config.text.max_tokens,
        vocabulary=vocabulary,
        batch_size=config.train.batch_size,
        buckets=config.data.buckets,
        weights=weights,
        frontend=frontend_of(config),
        mesh=mesh,
        resident=config.data.resident,
    )


def frontend_of(config: ConfigDict) -> LogMel | None:
    """What makes log-mels in the compiled step; None where precompute has made them."""
    if config.data.store != "wave" or not config.model.audio:
        return None
    audio = config.audio.to_dict()
    if audio.pop("frontend") != "librosa":
        raise UserError("config.data.store='wave' needs config.audio.frontend='librosa'")
    if audio.pop("contours"):
        raise UserError("config.data.store='wave' keeps no contours; set config.audio.contours=False or store='logmel'")
    del audio["trim_db"]
    return LogMel(**audio)


def build_model(config: ConfigDict, vocabulary_size: int, classes: int, seed: int) -> nnx.Module:
    hears = models.HEAR_CONTOURS + models.HEAR_FRAMES
    if config.audio.contours and (config.model.audio or config.model.functionals) not in hears:
        raise UserError(
            f"config.audio.contours=True: encoder {config.model.audio!r} takes neighbouring channels for neighbouring "
            f"frequencies; choose config.model.audio from: {', '.join(models.HEAR_CONTOURS)}"
        )
    return models.build(
        config.model.to_dict(),
        mels=channels(config.audio),
        vocabulary=vocabulary_size + 2,
        classes=classes,
        dtype=config.train.dtype,
        seed=seed,
        frontend=frontend_of(config),
        pcen=pcen_of(config),
        projection=config.train.projection if config.train.contrastive else 0,
        views=views_of(config),
        functionals=functionals_count(config.functionals.statistics, config.functionals.kernels),
    )


def pcen_of(config: ConfigDict) -> Pcen | None:
    if not config.model.pcen.time_s or not config.model.audio:
        return None
    if config.audio.frontend != "librosa":
        raise UserError("config.model.pcen is made of dB: it needs config.audio.frontend='librosa'")
    bands, hop_ms = config.audio.mels, config.audio.hop_ms
    return Pcen(bands=bands, hop_ms=hop_ms, **config.model.pcen.to_dict())


def views_of(config: ConfigDict) -> Views | None:
    views = Views(tuple(config.evaluate.speeds), tuple(config.evaluate.band_shifts), config.audio.mels)
    return views if views.on else None


def recipe_of(
    config: ConfigDict, model: nnx.Module, steps_per_epoch: int, own: Mapping[str, jax.Array] | None = None
) -> train.Recipe:
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
    return train.Recipe(
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


def train_member(
    config: ConfigDict, features: Features, member: Member, watch: Callable[[Mapping], None] = lambda numbers: None
) -> None:
    """Trains one model, or what is left of it, and leaves its checkpoints on disk.

    Args:
      watch: called with the numbers of every epoch; what it raises ends the training.
    """
    with Training(config, features, member, devices.all_devices()) as run:
        def after_epoch(epoch: int, state: train.TrainState, numbers: dict) -> None:
            run.keep(epoch, state, numbers)
            watch(numbers)

        train.fit(
            run.recipe, run.state, run.train_set, epochs=run.epochs, after_epoch=after_epoch, profile=run.profile
        )


def let_programs_go(models: int) -> None:
    """To be called when so many models are done: JAX keeps their compiled programs, 100 MB a model, for ever."""
    if models % 8 == 0:
        jax.clear_caches()


class Training:
    """A model between two epochs: what it learns from, its state, and where its epochs are kept.

    Args:
      mesh: the devices that its rows are dealt out to; None: one.

    Attributes:
      model: with its first weights and its normalisation.
      state: after the `done` epochs that an earlier run left on disk.
      epochs: that it is to have in the end.
    """

    def __init__(self, config: ConfigDict, features: Features, member: Member, mesh: Mesh | None = None):
        self._begin, self.config, self.member = time.perf_counter(), config, member
        split, self._corpus = member.split, features.corpus
        labels = self._corpus.labels
        if config.train.select not in metrics.METRICS:
            raise UserError(f"config.train.select={config.train.select!r}; choose one of: {', '.join(metrics.METRICS)}")
        splits.check_leakage(split, self._corpus, features.digests)
        clips = features.readable(split.train)
        vocabulary = vocabulary_of(config, features, clips)
        label = np.array([labels.index(self._corpus.clips[i].label) for i in clips])
        weights = data.class_weights(label, len(labels), config.train.class_weighting)
        self.train_set = dataset_of(config, features, clips, vocabulary, weights, mesh)
        self.dev_set = dataset_of(config, features, split.dev, vocabulary, mesh=mesh) if len(split.dev) else None

        self.model = build_model(config, len(vocabulary), len(labels), member.seed)
        for kind, path in config.model.pretrained.items():
            if path:
                pretrained.load(getattr(self.model, kind), config.model[kind], path)
        if config.model.audio and config.audio.frontend == "librosa":  # the others' scale is that of published weights
            statistics = functools.partial(data.logmel_statistics, features, clips, self.model.frontend)
            self.model.normalise.set(*statistics())
            if pcen := self.model.pcen:
                self.model.normalise_pcen.set(*statistics(pcen.alone))
        if config.model.functionals:
            fit = solved.fit(config, self.model, features, clips, label)
            logging.info("%s: ridge %g, UAR of left-out speakers %.3f", member.folder.name, fit.ridge, fit.uar)
        self.recipe = recipe_of(config, self.model, self.train_set.steps)
        fresh = devices.everywhere(self.recipe.init(self.model, member.seed), mesh)

        self._checkpoints = Checkpoints(member.checkpoints)
        self._description = identity.describe(config, features, member.split, member.seed, vocabulary)
        self.state, self.done, self._clock_s = identity.resume(self._checkpoints, fresh, self._description)
        self.epochs = member.epochs or config.train.epochs
        self.profile = Profile(member.folder / "profile" if multihost.is_first() else None, config.profile_steps)
        self._monitor = None
        if self.done >= self.epochs:
            logging.info("%s: all %d epochs are done", member.folder.name, self.done)
        elif multihost.is_first():
            self._monitor = Monitor(member.folder, member.folder.name, self.done, self.epochs)

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_) -> None:
        self.profile.close()
        if self._monitor:
            self._monitor.close()
        self._checkpoints.close()

    def keep(self, epoch: int, state: train.TrainState, numbers: dict) -> None:
        """Evaluates, saves and logs an epoch; its dev scores are added to `numbers`."""
        config, last = self.config, epoch == self.epochs
        numbers |= dict.fromkeys(("dev_loss", *(f"dev_{name}" for name in metrics.METRICS)))
        if epoch % config.train.save_epochs == 0 or last:
            if self.dev_set:
                numbers |= dev_scores(self.recipe, state, self.dev_set, self._corpus)
            clock = self._clock_s + time.perf_counter() - self._begin
            # Without dev clips the last epoch is the best one.
            chosen_by = numbers[f"dev_{config.train.select}"] if self.dev_set else epoch / config.train.epochs
            self._checkpoints.save(epoch, state, self._description | {"epoch": epoch, "clock_s": clock}, chosen_by)
        if self._monitor:
            self._monitor.epoch(numbers)


def dev_scores(recipe: train.Recipe, state: train.TrainState, dev_set: Dataset, corpus: Corpus) -> dict[str, float]:
    log_p = train.score(recipe.model, state, dev_set)
    label = np.array([corpus.labels.index(corpus.clips[i].label) for i in dev_set.clips])
    matrix = metrics.confusion(label, log_p.argmax(1), len(corpus.labels))
    found = {f"dev_{name}": float(value) for name, value in metrics.scores(matrix).items()}
    return found | {"dev_loss": float(-log_p[np.arange(len(label)), label].mean())}
