"""Closed-form models (config.model.functionals): fitted at once, without optimizer, epochs or gradients."""

import time

import numpy as np
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from emoflax import models
from emoflax.audio.channels import FRAME_MS
from emoflax.data import speakernorm, splits
from emoflax.data.features import Features, functionals_rows, logmel_rows
from emoflax.errors import UserError
from emoflax.experiment import identity
from emoflax.experiment.members import Member
from emoflax.experiment.model import build_model
from emoflax.models import ridge
from emoflax.parallel import mesh as devices
from emoflax.training import scoring
from emoflax.training.step import Weights

EPOCH = 1  # that its checkpoint is numbered by: the model is done


def check(config: ConfigDict) -> None:
    """Raises UserError for settings with which a model would get no input."""
    name = config.model.functionals
    if name not in models.FRAME_LEVEL_MODELS:
        return
    if not config.audio.contours or config.audio.hop_ms != FRAME_MS:
        raise UserError(
            f"config.model.functionals={name!r} takes contours as they are measured: set config.audio.contours=True "
            f"and config.audio.hop_ms={FRAME_MS:g}"
        )
    if splits.by_speaker(config.split.protocol):
        raise UserError(
            f"config.model.functionals={name!r} relies on the usual scale of contours; {speakernorm.SUFFIX} moves them"
        )


def audio_of_speeds(config: ConfigDict) -> dict[float, dict]:
    """Speed -> fields of config.audio, and the speed, of the log-mels that a frame-level model takes."""
    audio = config.audio.to_dict()
    return {speed: audio | ({} if speed == 1 else {"speed": speed}) for speed in config.functionals.speeds}


def train_member(config: ConfigDict, features: Features, member: Member) -> None:
    """Fits a model to the training clips of a split and leaves its checkpoint on disk, if it is not there."""
    from emoflax.training.checkpoint import Checkpoints  # orbax takes a second; prediction does without

    begin = time.perf_counter()
    splits.check_leakage(member.split, features.corpus, features.digests)
    description = identity.describe(config, features, member.split, member.seed, ())
    with Checkpoints(member.checkpoints) as checkpoints:
        if identity.check(checkpoints, description) is not None:
            logging.info("%s: fitted already", member.folder.name)
            return
        clips = features.readable(member.split.train)
        model = build_model(config, 0, len(features.corpus.labels), member.seed)
        solution = fit(config, model, features, clips)
        logging.info("%s: ridge %g, UAR of left-out speakers %.3f", member.folder.name, solution.ridge, solution.uar)
        description |= {"epoch": EPOCH, "clock_s": time.perf_counter() - begin}
        weights = devices.replicate(Weights.of(model), devices.all_devices())
        checkpoints.save(EPOCH, description, score=solution.uar, model=weights)


def fit(config: ConfigDict, model: nnx.Module, features: Features, clips: np.ndarray) -> ridge.Solution:
    """Fits a model to the clips at those positions."""
    known = [features.corpus.clips[i] for i in clips]
    label = np.array([features.corpus.labels.index(clip.label) for clip in known])
    speaker, text = np.array([clip.speaker for clip in known]), np.array([clip.text or "" for clip in known])
    rows, place = rows_of(config, features, clips)
    return model.fit(rows, label[place], speaker[place], text[place])


def predict(config: ConfigDict, model: nnx.Module, features: Features, clips: np.ndarray) -> np.ndarray:
    """Log-probabilities [clips, classes] float64 of the clips at those positions."""
    return log_probabilities(model, *rows_of(config, features, clips))


def log_probabilities(model: nnx.Module, rows, place: np.ndarray) -> np.ndarray:
    """Log-probabilities [clips, classes] float64: the mean over the rows of each clip, one row per speed."""
    logits = np.asarray(model(rows), np.float64)
    return scoring.mean_over_rows(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), place)


def rows_of(config: ConfigDict, features: Features, clips: np.ndarray):
    """What the model takes of the clips, one row per speed, and each row's place in `clips`."""
    of_frames = config.model.functionals in models.FRAME_LEVEL_MODELS
    return (logmel_rows if of_frames else functionals_rows)(features, clips)
