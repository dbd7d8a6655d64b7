"""What report.html shows beside the scores, from a run's models and recordings.

Scores and report.md are written before; whatever cannot be drawn is left out, with a warning, and costs no result.
"""

import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax import models
from emoflax.data.clip import Corpus
from emoflax.data.features import Features
from emoflax.experiment import closed_form, evaluate
from emoflax.experiment.evaluate import Predictions
from emoflax.experiment.members import Member, seeds
from emoflax.experiment.model import frontend_of
from emoflax.inference import explain
from emoflax.inference import member as one_model
from emoflax.inference.utterances import Utterance
from emoflax.reporting import metrics, page
from emoflax.reporting.report import Facts
from emoflax.selection.candidates import candidates_of

if TYPE_CHECKING:  # it imports orbax, which pages of a finished run do without
    from emoflax.selection import crossval

MOST_MAPPED = 600  # clips of a map

T = TypeVar("T")
# (seed, fold) -> what was trained, and its config
Models = Mapping[tuple[int, int], tuple[ConfigDict, Member]]


def write(
    folder: pathlib.Path,
    config: ConfigDict,
    facts: Facts,
    corpus: Corpus,
    predictions: Sequence[Predictions],
    own: Models = types.MappingProxyType({}),
    features_of: Callable[[ConfigDict], Features] | None = None,
    choices: Sequence["crossval.Choice"] = (),
) -> pathlib.Path | None:
    """Writes report.html into a folder that has the scores already; None where it is not wanted or not possible.

    Args:
      own: the models that made the predictions; empty where these are of an ensemble, or on another corpus.
      features_of: opens the features of one of their configs.
      choices: of a cross-validation.
    """
    if not config.report.html:
        return None

    def make() -> pathlib.Path:
        evidence = evidence_of(config, corpus, predictions, own, features_of, choices)
        confusions = evaluate.confusions(list(predictions), corpus)
        return page.write(folder, facts, confusions, metrics.summarise(confusions), evidence)

    return tried(f"{folder / 'report.html'}", make)


def tried(what: str, make: Callable[[], T]) -> T | None:
    """What `make` returns; None, and a warning, where it fails, for whatever reason: a picture must cost no result."""
    try:
        return make()
    except Exception as error:
        logging.warning("%s: not drawn (%s: %s); scores and report.md are complete", what, type(error).__name__, error)
        return None


def evidence_of(
    config: ConfigDict, corpus: Corpus, predictions: Sequence[Predictions], own: Models,
    features_of: Callable[[ConfigDict], Features] | None, choices: Sequence["crossval.Choice"],
) -> page.Evidence:  # fmt: skip
    tested = tested_of(predictions, corpus)
    names = _names(own)
    embedded, attention = None, {}
    # Of a cluster's processes only the first one is here, and a checkpoint is read by all of them together.
    if own and features_of and jax.process_count() == 1:
        first = predictions[0]
        embedded = tried("map of the clips", lambda: embedded_of(first, own, features_of))
        attention = tried("attention", lambda: attention_of(tested, predictions, corpus, own, features_of)) or {}
    return page.Evidence(
        tested,
        folders={names[at]: member.folder for at, (_, member) in own.items()},
        epochs={names[p.seed, p.fold]: p.epoch for p in predictions if (p.seed, p.fold) in own},
        embedded=embedded,
        attention=attention,
        candidates=cells_of(choices, candidates_of(config)) if choices else {},
        folds=tuple(choice.fold for choice in choices),
        audio=config.report.audio,
        trim_db=config.audio.trim_db,
    )


def _names(own: Models) -> dict[tuple[int, int], str]:
    return {(seed, fold): f"seed {seed}, fold {fold}" for seed, fold in own}


def tested_of(predictions: Sequence[Predictions], corpus: Corpus) -> page.Tested:
    clips = [corpus.clips[i] for p in predictions for i in p.clips]
    lengths = [len(p.clips) for p in predictions]
    return page.Tested(
        corpus.labels,
        tuple(clips),
        seed=np.repeat([p.seed for p in predictions], lengths),
        fold=np.repeat([p.fold for p in predictions], lengths),
        label=np.concatenate([corpus.label_numbers(p.clips) for p in predictions]),
        log_p=np.concatenate([p.log_p for p in predictions]),
    )


def cells_of(choices: Sequence["crossval.Choice"], names: Sequence[str] | Mapping) -> dict[str, list[page.Cell]]:
    """Candidate -> its cell in each fold."""
    return {
        name: [page.Cell(c.scores.get(name), c.candidate == name, c.weights.get(name, 0.0)) for c in choices]
        for name in names
    }


def of_members(config: ConfigDict, own: Sequence[Member]) -> dict[tuple[int, int], tuple[ConfigDict, Member]]:
    """The models of one config."""
    return {(member.seed, member.split.fold): (config, member) for member in own}


def of_chosen(config: ConfigDict, result: "crossval.Result") -> dict[tuple[int, int], tuple[ConfigDict, Member]]:
    """The chosen models of a cross-validation; one for all seeds where it is the same with each."""
    candidates, made = candidates_of(config), {}
    trained = {(member.split.fold, member.folder.name): member for member in result.final}
    for choice in result.choices:
        candidate = candidates[choice.candidate]
        for p in result.one:
            seed = p.seed if p.seed in seeds(candidate) else seeds(candidate)[0]
            member = trained.get((choice.fold, f"{choice.candidate}-seed{seed}"))
            if p.fold == choice.fold and member:
                made[p.seed, p.fold] = candidate, member
    return made


def embedded_of(
    predictions: Predictions, own: Models, features_of: Callable[[ConfigDict], Features]
) -> page.Embedded | None:
    """What the model of those predictions sees of their clips: models of other folds and seeds see other things."""
    if (predictions.seed, predictions.fold) not in own:
        return None
    config, member = own[predictions.seed, predictions.fold]
    features, clips = features_of(config), predictions.clips
    if len(clips) > MOST_MAPPED:
        clips = np.sort(np.random.default_rng(0).choice(clips, MOST_MAPPED, replace=False))
    trained = restored(config, member, predictions.epoch)
    vectors = one_model.Member("", 1.0, trained).embed(utterances_of(config, features, clips))
    part = "" if len(clips) == len(predictions.clips) else f" of {len(predictions.clips)}"
    of = f"{len(clips)}{part} test clips of fold {predictions.fold}, by the model of seed {predictions.seed}"
    return page.Embedded(tuple(features.corpus.clips[i] for i in clips), vectors, of)


def restored(config: ConfigDict, member: Member, epoch: int) -> evaluate.Trained:
    """The weights that were scored: of the best epoch, or of the last one."""
    trained = evaluate.restore(member.checkpoints, test_time=config.evaluate)
    if trained.description["epoch"] != epoch:
        trained = evaluate.restore(member.checkpoints, last=True, test_time=config.evaluate)
    return trained


def utterances_of(config: ConfigDict, features: Features, clips: Sequence[int]) -> list[Utterance]:
    """The features of a corpus's clips as inference takes those of recordings."""
    lexicon = np.array([*features.shards["tokens"].manifest["lexicon"], ""], object) if config.model.text else None
    made = []
    for i in clips:
        words = [] if lexicon is None else list(lexicon[np.asarray(features.get("tokens", i))])
        made.append(Utterance(features.corpus.clips[i].id, _sound(config, features, i), words))
    return made


def _sound(config: ConfigDict, features: Features, clip: int) -> np.ndarray | list[np.ndarray]:
    if config.model.functionals in models.FRAME_LEVEL_MODELS:
        return [features.get(kind, clip) for kind in features.sounds]
    if config.model.functionals:
        return list(closed_form.rows_of(config, features, np.array([clip]))[0])
    if not config.model.audio:
        return np.zeros((0, 0), np.float32)
    if frontend := frontend_of(config):
        return frontend.alone(features.get("wave", clip), features.scale(clip))
    return np.asarray(features.get("logmel", clip))


def attention_of(
    tested: page.Tested,
    predictions: Sequence[Predictions],
    corpus: Corpus,
    own: Models,
    features_of: Callable[[ConfigDict], Features],
) -> dict[str, np.ndarray]:
    """Clip id -> attention over time, mean over heads, of the mistakes that the page shows."""
    place = {clip.id: i for i, clip in enumerate(corpus.clips)}
    epochs = {(p.seed, p.fold): p.epoch for p in predictions}
    curves: dict[str, np.ndarray] = {}
    by_model: dict[tuple[int, int], list[int]] = {}
    for i in np.concatenate(page.mistakes(tested)):
        by_model.setdefault((int(tested.seed[i]), int(tested.fold[i])), []).append(place[tested.clips[i].id])
    for at, clips in by_model.items():
        if at not in own:
            continue
        config, member = own[at]
        if config.model.functionals or not config.model.audio or config.model.pooling != "attention":
            continue
        utterances = utterances_of(config, features_of(config), clips)
        trained = restored(config, member, epochs[at])
        for utterance, (curve, _) in zip(utterances, explain.attentions(trained, utterances), strict=True):
            if curve is not None:
                curves[utterance.name] = curve.mean(1)
    return curves
