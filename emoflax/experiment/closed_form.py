"""Closed-form models (config.model.functionals): fitted at once, without optimizer, epochs or gradients."""

import functools
import pathlib
import time
from typing import TYPE_CHECKING

import numpy as np
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from emoflax import models
from emoflax.audio.channels import FRAME_MS
from emoflax.data import parts, speakernorm, splits
from emoflax.data.clip import Corpus
from emoflax.data.features import Features, functionals_rows, logmel_rows, states_rows
from emoflax.errors import UserError
from emoflax.experiment import identity, seen
from emoflax.experiment.members import Member
from emoflax.experiment.model import build_model, takes_states_of_words
from emoflax.files import make_folder, read_arrays, write_whole
from emoflax.models import ridge
from emoflax.parallel import mesh as devices
from emoflax.reporting import calibration
from emoflax.training import scoring
from emoflax.training.step import Weights

if TYPE_CHECKING:
    from emoflax.features.states import StateEncoder

EPOCH = 1  # that its checkpoint is numbered by: the model is done
_LEFT_OUT = "left_out.npz"


def check(config: ConfigDict) -> None:
    """Raises UserError for settings with which a model would get no input."""
    name, states = config.model.functionals, config.states
    if name in models.STATES_MODELS and not states.weights:
        raise UserError(f"config.model.functionals={name!r} needs published weights: set config.states.weights")
    if name in models.STATES_MODELS and states.layers and states.layers[-1] >= states.depth:
        raise UserError(
            f"config.states.layers={tuple(states.layers)}: {states.weights} has layers 0 to {states.depth - 1}"
        )
    if takes_states_of_words(config) and (tuple(config.functionals.speeds) != (1.0,) or config.data.copies):
        raise UserError(
            f"config.states.encoder={states.encoder!r} takes words, which have neither speeds nor disturbed copies: "
            "set config.functionals.speeds=(1.0,) and config.data.copies=0"
        )
    wanted = config.functionals
    if wanted.feature_set != "own" and (wanted.kernels or not wanted.statistics):
        raise UserError(
            f"config.functionals.feature_set={wanted.feature_set!r} has neither statistics nor kernels of our own: set "
            "config.functionals.statistics=True and config.functionals.kernels=0"
        )
    if wanted.leave_out and (name != "ridge" or wanted.feature_set != "own" or wanted.kernels):
        raise UserError(
            f"config.functionals.leave_out={tuple(wanted.leave_out)} is about our own statistics: it needs "
            "config.model.functionals='ridge', config.functionals.feature_set='own' and config.functionals.kernels=0"
        )
    if name not in models.FRAME_LEVEL_MODELS:
        return
    if not config.audio.contours or config.audio.hop_ms != FRAME_MS:
        raise UserError(
            f"config.model.functionals={name!r} takes contours as they are measured: set config.audio.contours=True "
            f"and config.audio.hop_ms={FRAME_MS:g}"
        )
    if suffix := speakernorm.suffix_of(config.split.protocol):
        raise UserError(f"config.model.functionals={name!r} relies on the usual scale of contours; {suffix} moves them")


def audio_of_speeds(config: ConfigDict) -> dict[float, dict]:
    """Speed -> fields of config.audio, and the speed, of the log-mels that the model or its encoder takes."""
    audio = config.audio.to_dict()
    return {speed: audio | ({} if speed == 1 else {"speed": speed}) for speed in config.functionals.speeds}


def functionals_of(config: ConfigDict) -> dict:
    """The fields of config.functionals that decide what is computed of a recording: arguments of `of_wave`."""
    own = config.functionals.feature_set == "own"
    names = ("statistics", "kernels", "speeds") if own else ("feature_set", "speeds")
    return {name: config.functionals[name] for name in names}


def train_member(config: ConfigDict, features: Features, member: Member) -> None:
    """Fits a model to the training clips of a split and leaves its checkpoint on disk, if it is not there."""
    from emoflax.training.checkpoint import Checkpoints  # orbax takes a second; prediction does without

    begin = time.perf_counter()
    split = splits.check_leakage(member.split, features.corpus, features.digests)
    description = identity.describe(config, features, member.split, member.seed, ())
    with Checkpoints(member.checkpoints) as checkpoints:
        if identity.check(checkpoints, description) is not None:
            logging.info("%s: fitted already", member.folder.name)
            return
        clips = features.readable(split.train)
        model = build_model(config, 0, len(features.corpus.labels), member.seed)
        solution = fit(config, model, features, clips)
        logging.info("%s: ridge %g, UAR of left-out speakers %.3f", member.folder.name, solution.ridge, solution.uar)
        scored, log_p = left_out(solution, features, clips)
        _write_left_out(member.folder, scored, log_p)
        label, people = np.array(features.corpus.label_numbers(scored)), people_of(config, features.corpus, scored)
        description |= {"calibration": calibration.fitted(log_p, label, people)}
        description |= {"conditions": features.usual_conditions(clips)}
        description |= {"trained_on": seen.of_training(features.corpus, clips, features.digests)}
        description |= {"epoch": EPOCH, "clock_s": time.perf_counter() - begin}
        weights = devices.replicate(Weights.of(model), devices.all_devices())
        checkpoints.save(EPOCH, description, score=solution.uar, model=weights)


def fit(config: ConfigDict, model: nnx.Module, features: Features, clips: np.ndarray) -> ridge.Solution:
    """Fits a model to the clips at those positions."""
    text = np.array([features.corpus.clips[i].text or "" for i in clips])
    rows, place = rows_of(config, features, clips, copies=True)
    known = labelled(config, features, clips, place)
    if config.functionals.leave_out:
        from emoflax.features import functional_kinds  # scipy takes a quarter of a second

        return model.fit(rows, known, text[place], functional_kinds.left(config.functionals.leave_out))
    return model.fit(rows, known, text[place])


def labelled(config: ConfigDict, features: Features, clips: np.ndarray, place: np.ndarray) -> ridge.Labelled:
    """What is known of rows; `place`: of each row's clip in `clips`, positions in the corpus."""
    known, classes = [features.corpus.clips[i] for i in clips], len(features.corpus.labels)
    label, corpus = np.array(features.corpus.label_numbers(clips)), np.array([clip.corpus for clip in known])
    group = people_of(config, features.corpus, clips)
    if group is None:
        group = np.array([clip.speaker or "" for clip in known])
    weighting = {"balance_corpora": config.train.balance_corpora, "class_weighting": config.train.class_weighting}
    return ridge.Labelled.of(label[place], classes, group[place], corpus[place], **weighting)


def people_of(config: ConfigDict, corpus: Corpus, clips: np.ndarray) -> np.ndarray | None:
    """Number of each clip's corpora of the same people, where whole corpora are left out and there are two or more."""
    number = {name: group for group, names in enumerate(parts.speaker_groups(corpus)) for name in names}
    group_N = np.array([number[corpus.clips[i].corpus] for i in clips])
    return group_N if config.train.leave_out == "corpus" and len(np.unique(group_N)) > 1 else None


def left_out(solution: ridge.Solution, features: Features, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training clips and their log-probabilities [clips, classes], each by the fit without its speaker or corpus.

    Without clips that were not left out, those of an emotion that their speaker or corpus alone has, and disturbed
    copies. The ridge's own temperature is that of single rows; the mean over a clip's speeds wants another.
    """
    left_out = solution.left_out.reshape(len(clips), -1, solution.left_out.shape[1])
    predicted = np.isfinite(left_out[:, 0]).any(-1)
    clips, left_out = clips[predicted], left_out[predicted]
    left_out = left_out[:, : left_out.shape[1] - len(features.copies)]  # copies come last
    rows = left_out.reshape(-1, left_out.shape[2])
    rows = rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)
    log_p = scoring.mean_over_rows(rows, np.repeat(np.arange(len(clips)), len(rows) // len(clips)))
    scored = np.isfinite(log_p[np.arange(len(clips)), np.array(features.corpus.label_numbers(clips))])
    return clips[scored], log_p[scored]


def _write_left_out(folder: pathlib.Path, clips: np.ndarray, log_p: np.ndarray) -> None:
    make_folder(folder)
    with write_whole(folder / _LEFT_OUT) as file:
        np.savez(file, clips=clips, log_p=log_p)


def read_left_out(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Fields of `Predictions` that `train_member` left in a model's folder; none, where it left nothing."""
    if not (folder / _LEFT_OUT).is_file():
        return {}
    try:
        kept = read_arrays(folder / _LEFT_OUT)
        return {"left_out_clips": kept["clips"], "left_out_log_p": kept["log_p"]}
    except (ValueError, LookupError) as error:
        raise UserError(
            f"{folder / _LEFT_OUT} is damaged ({error}); remove {folder}, and the same command fits its model again"
        ) from error


def predict(config: ConfigDict, model: nnx.Module, features: Features, clips: np.ndarray) -> np.ndarray:
    """Log-probabilities [clips, classes] float64 of the clips at those positions."""
    return log_probabilities(model, *rows_of(config, features, clips))


def log_probabilities(model: nnx.Module, rows, place: np.ndarray) -> np.ndarray:
    """Log-probabilities [clips, classes] float64: the mean over the rows of each clip, one row per speed."""
    logits = np.asarray(model(rows), np.float64)
    return scoring.mean_over_rows(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), place)


def rows_of(config: ConfigDict, features: Features, clips: np.ndarray, *, copies: bool = False):
    """What the model takes of the clips, one row per speed and then one per copy, and each row's place in `clips`."""
    if config.model.functionals in models.FRAME_LEVEL_MODELS:
        return logmel_rows(features, clips, copies=copies)
    if config.model.functionals in models.STATES_MODELS:
        return states_rows(features, clips, functools.partial(chosen_states, config), copies=copies)
    return functionals_rows(features, clips, copies=copies)


def chosen_states(config: ConfigDict, states: np.ndarray) -> np.ndarray:
    """States [clips, layers, statistics, width] -> those of config.states.layers, [clips, numbers]."""
    layers = list(config.states.layers) or list(range(states.shape[1]))
    return states[:, layers].reshape(len(states), -1)


def encoder_of(config: ConfigDict) -> "StateEncoder":
    """The pretrained encoder of config.states; loaded once in a process."""
    states = config.states
    return _encoder(states.encoder, states.weights, states.silence_s, states.parts)


@functools.lru_cache(maxsize=2)
def _encoder(name: str, weights: str, silence_s: float, parts: int) -> "StateEncoder":
    from emoflax.features.states import load

    return load(name, weights, silence_s=silence_s, parts=parts, batch=1)
