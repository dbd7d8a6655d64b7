"""Best checkpoints -> predictions of every test clip -> scores with intervals."""

import csv
import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from emoflax.data import splits
from emoflax.data.clip import Corpus
from emoflax.data.features import Features
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.experiment import checks, closed_form, identity
from emoflax.experiment.features import dataset_of
from emoflax.experiment.members import Member
from emoflax.experiment.model import model_shapes
from emoflax.files import naming
from emoflax.parallel import mesh as devices
from emoflax.reporting import calibration, metrics
from emoflax.reporting.crossfit import CrossFitted
from emoflax.training import scoring
from emoflax.training.step import Weights

if TYPE_CHECKING:
    from emoflax.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Clips that one model has not seen: log-probabilities [clips, classes] and positions [clips] in the corpus."""

    seed: int
    fold: int
    epoch: int
    clips: np.ndarray
    log_p: np.ndarray
    parameters: int
    seconds: float  # that the model was trained for
    temperature: float = 1.0  # that its checkpoint fitted, whether it was applied or not
    # Of a closed-form model: clips that trained it, each predicted by the fit without its speaker.
    left_out_clips: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    left_out_log_p: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model as its checkpoint describes it."""

    config: ConfigDict
    description: dict
    model: nnx.GraphDef
    state: Weights

    @property
    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def module(self) -> nnx.Module:
        return nnx.merge(self.model, self.state.evaluated, self.state.statistics)


def restore(
    folder: pathlib.Path, *, last: bool = False, test_time: ConfigDict | None = None, mesh: Mesh | None = None
) -> Trained:
    """Rebuilds the best model of a checkpoint folder, or that of its last epoch, from the folder alone.

    Args:
      test_time: config.evaluate, in the place of the one that it was trained with.
      mesh: the devices that get the weights, whatever they were trained on; None: the first one alone.

    Raises:
      UserError: there is no checkpoint, none is whole, its model's code has changed since, or it does not fit the
        model that it describes.
    """
    from emoflax.training.checkpoint import open_existing  # orbax takes a second; a bundle does without

    checkpoints = open_existing(folder)
    epoch = checkpoints.latest() if last else checkpoints.best()
    description = checkpoints.describe(epoch)
    if not last:
        description |= _calibration_of_the_choice(checkpoints)
    graph, shapes, config = described(description, str(folder), test_time)
    return Trained(config, description, graph, checkpoints.restore_model(epoch, devices.like(shapes, mesh)))


def _calibration_of_the_choice(checkpoints: "Checkpoints") -> dict:
    """{'calibration'} of the best epoch: that of the last one, which knows all epochs that it was chosen from.

    {} where epochs have their own, as in checkpoints of earlier versions, or none.
    """
    kept = checkpoints.describe_latest().get("calibration") or {}
    return {"calibration": kept} if kept.get("cross_fitted") else {}


def described(
    description: dict, where: str, test_time: ConfigDict | None = None, *, same_code: bool = True
) -> tuple[nnx.GraphDef, Weights, ConfigDict]:
    """The model of a description, the shapes of its weights, and its config; nothing is initialised or compiled.

    Args:
      where: the folder that errors name.
      test_time: config.evaluate, in the place of the one that it was trained with.
      same_code: whether other code than that of training is refused.

    Raises:
      UserError: the model's code has changed since.
    """
    config = checks.config_of(description["config"])
    checks.import_own(config)
    if same_code:
        identity.check_code(description, where, identity.PREDICTION_CODE)
    config.evaluate = config.evaluate if test_time is None else test_time
    model = model_shapes(config, len(description["vocabulary"]), len(description["labels"]))
    return nnx.graphdef(model), Weights.of(model), config


def predict_member(
    config: ConfigDict,
    features: Features,
    member: Member,
    part: str = "test",
    *,
    last: bool = False,
    calibrated: bool = True,
) -> Predictions:
    """Scores the 'test' or the 'dev' clips of one fold with its best checkpoint, or with the last.

    Args:
      calibrated: whether the checkpoint's temperature is applied; dev clips are what it was fitted on.
    """
    mesh = devices.all_devices()
    trained = restore(member.checkpoints, last=last, test_time=config.evaluate, mesh=mesh)
    here = identity.describe(config, features, member.split, member.seed, trained.description["vocabulary"])
    identity.check_code(trained.description, str(member.folder))
    if changed := identity.differences(trained.description, here):
        raise UserError(
            f"the checkpoint in {member.folder} was trained with other settings ({'; '.join(changed[:4])}); "
            "evaluate it with the config that trained it"
        )
    clips = features.readable(getattr(member.split, part))
    log_p = log_probabilities(config, trained, features, clips, mesh)
    temperature = calibration.temperature_of(trained.description)
    if calibrated:
        log_p = calibration.tempered(log_p, temperature)
    if part == "test" and splits.base_of(member.split.protocol) == "loco":
        log_p = among(log_p, shared_labels(features.corpus, member.split, clips))
    epoch, seconds = trained.description["epoch"], trained.description["clock_s"]
    return Predictions(member.seed, member.split.fold, epoch, clips, log_p, trained.parameters, seconds, temperature)


def cross_fitted(config: ConfigDict, member: Member) -> dict[str, np.ndarray]:
    """{'log_p': of the dev clips [clips, classes], each by the epoch that other dev clips choose}, without temperature.

    {} where training left none, or did not predict as `config.evaluate` does.
    """
    from emoflax.training.checkpoint import open_existing

    checkpoints = open_existing(member.checkpoints)
    epoch = checkpoints.latest()
    then, now = checkpoints.describe(epoch)["config"]["evaluate"], json.loads(config.evaluate.to_json_best_effort())
    saved = checkpoints.dev(epoch) if then == now else None
    return {"log_p": CrossFitted.restored(saved).log_p_NxC} if saved else {}


def log_probabilities(
    config: ConfigDict, trained: Trained, features: Features, clips: np.ndarray, mesh: Mesh | None
) -> np.ndarray:
    """Log-probabilities [clips, classes] of the clips at those positions."""
    if config.model.functionals:
        return closed_form.predict(config, trained.module(), features, clips)
    dataset = dataset_of(config, features, clips, trained.description["vocabulary"], mesh=mesh)
    return scoring.score(trained.model, trained.state, dataset)


def shared_labels(corpus: Corpus, split: Split, clips: np.ndarray) -> np.ndarray:
    """bool [clips, classes]: the labels that both the clip's source corpus and the training clips have."""
    trained = {corpus.clips[i].label for i in split.train}
    kept = {
        name: [label in own and label in trained for label in corpus.labels] for name, own in corpus.labels_of.items()
    }
    return np.array([kept[corpus.clips[i].corpus] for i in clips])


def among(log_p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Log-probabilities [clips, classes] given that the class is one of those `kept`, bool [clips, classes]."""
    log_p = np.where(kept, log_p, -np.inf)
    return log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)


def confusions(predictions: list[Predictions], corpus: Corpus) -> np.ndarray:
    """[seeds, speakers, classes, classes], each seed's folds pooled: a clip is scored by the fold that it is out of."""
    per_seed = []
    for seed in sorted({p.seed for p in predictions}):
        clips = np.concatenate([p.clips for p in predictions if p.seed == seed])
        predicted = np.concatenate([p.log_p.argmax(1) for p in predictions if p.seed == seed])
        label = np.array(corpus.label_numbers(clips))
        speaker = np.array([corpus.clips[i].speaker for i in clips])
        per_seed.append(metrics.speaker_confusions(label, predicted, speaker, len(corpus.labels)))
    return np.stack(per_seed)


def of_source(predictions: list[Predictions], corpus: Corpus, name: str) -> tuple[list[Predictions], Corpus]:
    """The predictions of one source corpus's clips among the labels that any of them can have, and that corpus.

    Predictions of folds that do not test it are left out.
    """
    kept, own = [], [np.array([corpus.clips[i].corpus == name for i in p.clips], bool) for p in predictions]
    possible = np.any([np.isfinite(p.log_p[there]).any(0) for p, there in zip(predictions, own, strict=True)], axis=0)
    for p, there in zip(predictions, own, strict=True):
        if there.any():
            kept.append(dataclasses.replace(p, clips=p.clips[there], log_p=p.log_p[there][:, possible]))
    labels = tuple(label for label, can in zip(corpus.labels, possible, strict=True) if can)
    return kept, dataclasses.replace(corpus, labels=labels)


def calibrations(predictions: list[Predictions], corpus: Corpus) -> dict:
    """How well the probabilities fit, see `calibration.summarise`."""
    log_p, label = [], []
    for seed in sorted({p.seed for p in predictions}):
        own = [p for p in predictions if p.seed == seed]
        log_p.append(np.concatenate([p.log_p for p in own]))
        clips = np.concatenate([p.clips for p in own])
        label.append(corpus.label_numbers(clips))
    return calibration.summarise(log_p, label)


def write_predictions(path: pathlib.Path, predictions: list[Predictions], corpus: Corpus) -> None:
    """One CSV line per clip and seed, with the probability of every class."""
    with naming(path), path.open("w", newline="", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["corpus", "seed", "fold", "clip", "speaker", "label", "predicted", *corpus.labels])
        for p in predictions:
            for position, log_p in zip(p.clips, p.log_p, strict=True):
                clip, guess = corpus.clips[position], corpus.labels[int(log_p.argmax())]
                shown = [f"{value:.6f}" for value in np.exp(log_p)]
                writer.writerow([corpus.name, p.seed, p.fold, clip.id, clip.speaker, clip.label, guess, *shown])
    logging.info("predictions of every clip: %s", path)
