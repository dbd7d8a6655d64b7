"""Nested evaluation: what is chosen is chosen on each fold's training speakers, then the fold is scored once.

    inner   training speakers less the inner validation speakers -> every candidate with every seed, scored on these
    choice  the best candidate; its epoch, if asked for; the weights of all candidates in an ensemble, for which
            closed-form candidates also predict the speakers that trained them, each left out in turn
    final   what was chosen, trained on all training speakers for every seed; one look at the test clips

Where there is one candidate and its epochs are fixed, there is nothing to choose, and no inner model is trained.
A candidate is a set of config fields; all that is asked of it is log-probabilities of clips (`learn`). Inner tasks are
built from splits that hold no test clip.

    runs/<name>-<corpus>-<protocol>-nested/fold1/inner-<candidate>-seed0/    checkpoints, logs, dev.npz
    runs/<name>-<corpus>-<protocol>-nested/fold1/<candidate>-seed0/          checkpoints, logs, test.npz
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax.data import splits
from emoflax.data.clip import Corpus
from emoflax.data.features import Features, permute_labels
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.experiment import claims, closed_form, evaluate, identity, population
from emoflax.experiment.corpus import corpus_of
from emoflax.experiment.evaluate import Predictions
from emoflax.experiment.features import features_of
from emoflax.experiment.members import Member, folds, run_folder, seeds
from emoflax.experiment.run import train_member
from emoflax.files import naming, write_whole
from emoflax.reporting import calibration, metrics
from emoflax.selection import held_out, kept_predictions, pool, shared
from emoflax.selection.candidates import candidates_of


@dataclasses.dataclass(frozen=True)
class Task:
    """A model to train, and the part of its split, 'dev' or 'test', to predict."""

    config: ConfigDict
    member: Member
    part: str

    @property
    def kept(self) -> pathlib.Path:
        """Its predictions, once it is done."""
        return self.member.folder / f"{self.part}.npz"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a fold's training speakers chose.

    By candidate: dev scores (means over seeds), epochs (None: all), and weights in the ensemble. `temperature`: of the
    chosen candidate, under which the inner validation clips' labels are likeliest; None: that of its checkpoint.
    """

    fold: int
    why: str  # 'dev scores' | 'only candidate'
    candidate: str
    scores: dict[str, float]
    epochs: dict[str, int | None]
    weights: dict[str, float]
    temperature: float | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """Predictions, and the models that they come from.

    Attributes:
      inner_scored: of the inner validation clips, by candidate, per fold and seed.
      one: of the test clips by the chosen candidate, per seed and fold; empty without `config.crossval.final`.
      ensemble: of the test clips, per fold.
      models: most in an ensemble.
    """

    choices: list[Choice]
    inner: list[Member]
    final: list[Member]
    inner_scored: dict[str, list[Predictions]]
    one: list[Predictions]
    ensemble: list[Predictions]
    models: int


def run(config: ConfigDict, corpus: Corpus, folder: pathlib.Path) -> Result:
    """Chooses, trains and predicts; what an earlier run of the same command finished is taken over."""
    candidates = candidates_of(config)
    inner_splits, outer_splits = nested_splits(config, corpus)
    choosing = chooses(candidates)
    if not (choosing or config.crossval.final):
        raise UserError("config.crossval.final=False, but there is one candidate only, and nothing to choose: no model")
    inner = inner_tasks(candidates, inner_splits, folder) if choosing else {}
    for task in inner.values():
        identity.check_early(task.config, corpus, task.member.checkpoints, task.member.split, task.member.seed)
    with one_at_a_time(config):
        for candidate in candidates.values():
            open_features(candidate)  # computes what is missing, before several processes would
    dev = dict(zip(inner, learn_all(list(inner.values()), config), strict=True))
    choices = [
        choose(of_fold(dev, candidates, split.fold), candidates, split.fold, corpus)
        if choosing
        else only(*candidates, split.fold)
        for split in inner_splits
    ]
    with naming(folder / "choices.json"), write_whole(folder / "choices.json") as file:
        file.write((json.dumps([dataclasses.asdict(c) for c in choices], indent=2) + "\n").encode())
    scored = {name: [p for (_, own, _), p in dev.items() if own == name] for name in candidates if choosing}
    final = final_tasks(candidates, outer_splits, choices, folder) if config.crossval.final else {}
    test = dict(zip(final, learn_all(list(final.values()), config), strict=True))
    trained = ([task.member for task in tasks.values()] for tasks in (inner, final))
    return Result(choices, *trained, scored, *combine(choices, candidates, test, config))


def nested_splits(config: ConfigDict, corpus: Corpus) -> tuple[tuple[Split, ...], tuple[Split, ...]]:
    """The inner and the outer split of every fold."""
    inner, outer = zip(*map(splits.nest, folds(config, corpus, config.crossval.inner_share)), strict=True)
    return inner, outer


def chooses(candidates: Mapping[str, ConfigDict]) -> bool:
    """Whether there is anything to choose, or a temperature to fit, so that inner models are trained."""
    settings = [candidate.crossval for candidate in candidates.values()]
    return len(candidates) > 1 or any(one.choose_epoch or one.calibrate for one in settings)


def run_folder_of(workdir: pathlib.Path, config: ConfigDict, corpus: Corpus) -> pathlib.Path:
    """Where a cross-validation keeps its files."""
    folder = run_folder(workdir, config, corpus)
    return folder.with_name(f"{folder.name}-nested{'-permuted' if config.crossval.permute_labels else ''}")


def combine(
    choices: Sequence[Choice], candidates: Mapping[str, ConfigDict], test: Mapping, config: ConfigDict
) -> tuple[list[Predictions], list[Predictions], int]:
    """`one`, `ensemble` and `models` of a Result, from the test predictions by (fold, candidate, seed)."""
    if not test:
        return [], [], 1
    tested = [of_fold(test, (choice.candidate, *choice.weights), choice.fold) for choice in choices]
    # A closed-form model is reported once, unless other folds have chosen one that differs from seed to seed.
    wanted = max((seeds(candidates[choice.candidate]) for choice in choices), key=len)
    one = [
        dataclasses.replace(tempered(predictions, choice.temperature), seed=seed)
        for choice, by_name in zip(choices, tested, strict=True)
        for seed, predictions in zip(wanted, itertools.cycle(by_name[choice.candidate]), strict=False)
    ]
    ensemble = [mix(choice, by_name) for choice, by_name in zip(choices, tested, strict=True)]
    return one, ensemble, max(sum(len(seeds(candidates[name])) for name in choice.weights) for choice in choices)


def tempered(predictions: Predictions, temperature: float | None) -> Predictions:
    """At that temperature, or at that of the checkpoint."""
    temperature = predictions.temperature if temperature is None else temperature
    return dataclasses.replace(predictions, log_p=calibration.tempered(predictions.log_p, temperature))


@dataclasses.dataclass(frozen=True)
class Part:
    """What one report is about. `suffix`: of the config's name.

    `recorded`: whether the ledger takes it: inner scores where no test clip is scored, an ensemble if it is more than
    the one model. `candidates`: whose models predicted, in one fold or another.
    """

    folder: str
    suffix: str
    protocol: str
    split: Split
    predictions: list[Predictions]
    seconds: float  # of training, what was trained to choose included
    seeds: tuple[int, ...]
    models: int
    recorded: bool
    candidates: set[str]


def parts(config: ConfigDict, result: Result) -> list[Part]:
    """Of the inner models of each candidate, of the chosen one, and of the ensemble."""
    spent = {name: sum(p.seconds for p in predictions) for name, predictions in result.inner_scored.items()}
    candidates, made = candidates_of(config), []
    for name, predictions in result.inner_scored.items():
        split, own = result.inner[0].split, tuple(seeds(candidates[name]))
        scored = Part(f"inner/{name}", f"-{name}", f"{split.protocol}-inner", split, predictions, spent[name], own, 1,
                      not result.final, {name})  # fmt: skip
        made.append(scored)
    if not result.final:
        return made
    split, own = result.final[0].split, tuple(sorted({p.seed for p in result.one}))
    every = tuple(sorted({member.seed for member in result.final}))  # an ensemble's members have all of them
    chosen = {choice.candidate for choice in result.choices}
    weighed = {name for choice in result.choices for name in choice.weights}
    for name, suffix, predictions, of, models, by in (
        ("one", "", result.one, own, 1, chosen),
        ("ensemble", "-ensemble", result.ensemble, every, result.models, weighed),
    ):
        seconds = sum(spent.values()) + sum(p.seconds for p in predictions)
        recorded = name == "one" or models > 1 or len(candidates) > 1
        made.append(Part(name, suffix, split.protocol, split, predictions, seconds, of, models, recorded, by))
    return made


def notes(config: ConfigDict, result: Result) -> tuple[str, ...]:
    """What a report says about how its numbers came about."""
    folds: dict[str, list[str]] = {}
    for choice in result.choices:
        folds.setdefault(choice.candidate, []).append(str(choice.fold))
    chosen = "; ".join(f"{name} (folds {', '.join(numbers)})" for name, numbers in folds.items())
    seed = config.crossval.permute_labels
    how = "candidate, epochs and ensemble weights are chosen on training speakers alone, fold by fold"
    if not result.inner:
        how = "there is one candidate, and nothing is chosen; test clips have no part in training"
    return (
        f"**label-permutation control: training labels shuffled by seed {seed}; a UAR beyond chance would be a leak**"
        if seed
        else "",
        f"nested: {how}; chosen: {chosen}; all choices in choices.json",
        "the time is that of training all models, one after the other",
    )


def inner_tasks(candidates: Mapping[str, ConfigDict], inner: Sequence[Split], folder: pathlib.Path) -> dict:
    """(fold, candidate, seed) -> task."""
    return {
        (split.fold, name, seed): Task(
            candidate, Member(seed, split, folder / f"fold{split.fold}" / f"inner-{name}-seed{seed}"), "dev"
        )
        for split in inner
        for name, candidate in candidates.items()
        for seed in seeds(candidate)
    }


def final_tasks(
    candidates: Mapping[str, ConfigDict], outer: Sequence[Split], choices: Sequence[Choice], folder: pathlib.Path
) -> dict:
    """(fold, candidate, seed) -> task, of every candidate that the fold's choice uses."""
    return {
        (split.fold, name, seed): Task(
            candidates[name],
            Member(seed, split, folder / f"fold{split.fold}" / f"{name}-seed{seed}", choice.epochs[name]),
            "test",
        )
        for split, choice in zip(outer, choices, strict=True)
        for name in dict.fromkeys([choice.candidate, *choice.weights])
        for seed in seeds(candidates[name])
    }


def of_fold(found: Mapping, names: Iterable[str], fold: int) -> dict[str, list[Predictions]]:
    """Candidate -> predictions of one fold, per seed."""
    return {name: [p for (at, own, _), p in found.items() if (at, own) == (fold, name)] for name in names}


def learn_all(tasks: Sequence[Task], config: ConfigDict) -> list[Predictions]:
    """Predictions of every task, in order; trained one by one, by several processes, or as populations."""
    if (size := config.train.population) > 1:
        missing = [task for task in tasks if not task.kept.exists()]
        population.train_members([(t.config, training_features(t), t.member) for t in missing], size)
    found: dict[int, Predictions] = {}
    for place, predictions in shared.run(learn, tasks, config.crossval.workers, lambda task: task.member.folder):
        found[place] = predictions
        folder = tasks[place].member.folder
        logging.info("model %d of %d: %s/%s", len(found), len(tasks), folder.parent.name, folder.name)
    return [found[place] for place in range(len(tasks))]


def learn(task: Task, watch: Callable[[Mapping], None] = lambda numbers: None) -> Predictions:
    """Trains a model, or what is left of it, and predicts; the predictions are kept beside the checkpoints.

    Raises:
      ClaimedError: another process is training it.
    """
    config, member = task.config, task.member
    features = training_features(task)
    key = identity.key(identity.describe(config, features, member.split, member.seed, ()))
    if (known := kept_predictions.read(task.kept, key)) is not None:
        return known
    with claims.claim(member.folder):
        if (known := kept_predictions.read(task.kept, key)) is not None:  # finished by another process just now
            return known
        train_member(config, features, member, watch)
        last = not config.crossval.choose_epoch
        predictions = evaluate.predict_member(config, features, member, task.part, last=last, calibrated=False)
        if task.part == "dev":
            predictions = dataclasses.replace(predictions, **closed_form.read_left_out(member.folder))
            if not last:  # of the epoch that these clips chose, scores and temperature would be too good
                predictions = dataclasses.replace(predictions, **evaluate.cross_fitted(config, member))
        kept_predictions.write(task.kept, key, predictions)
    return predictions


def training_features(task: Task) -> Features:
    """What the task's model learns from; with shuffled labels in a label-permutation control."""
    features, seed = open_features(task.config), task.config.crossval.permute_labels
    return permute_labels(features, task.member.split.train, seed) if seed else features


def one_at_a_time(config: ConfigDict) -> contextlib.AbstractContextManager[None]:
    """Around features that may have to be computed: of the processes that share a folder, one computes them."""
    if not config.crossval.shared:
        return contextlib.nullcontext()
    return claims.alone(pathlib.Path(config.data.cache_dir), "features.lock")


def open_features(config: ConfigDict) -> Features:
    groups = ("data", "audio", "functionals", "states", "text", "precompute", "model", "split")
    own = {name: config[name].to_dict() for name in groups}
    return _open_features(json.dumps(own, default=list), _Hidden(config))


@dataclasses.dataclass(frozen=True)
class _Hidden:
    """A config that is no part of a cache's key."""

    config: ConfigDict = dataclasses.field(compare=False, hash=False)


@functools.lru_cache(maxsize=16)  # a process trains many models on the same shards
def _open_features(_: str, hidden: _Hidden) -> Features:
    config = hidden.config
    return features_of(config, corpus_of(config))


def choose(
    dev: Mapping[str, Sequence[Predictions]], candidates: Mapping[str, ConfigDict], fold: int, corpus: Corpus
) -> Choice:
    """The choice of one fold, from predictions of the inner validation clips, by candidate and seed."""
    scores = {
        name: float(np.mean([score_of(each, corpus, candidates[name].train.select) for each in seeds]))
        for name, seeds in dev.items()
    }
    epochs = {
        name: round(np.median([each.epoch for each in seeds])) if candidates[name].crossval.choose_epoch else None
        for name, seeds in dev.items()
    }
    weights = held_out.of(dev, corpus).weights()
    best = max(scores, key=scores.__getitem__)
    alone = held_out.joined([held_out.of({best: [each]}, corpus) for each in dev[best]])
    temperature = calibration.fit_temperature(alone.log_p_MxNxC[0], alone.label_N)
    return Choice(fold, "dev scores", best, scores, epochs, weights, round(temperature, 4))


def only(name: str, fold: int) -> Choice:
    """The choice of one fold where there is nothing to choose from."""
    return Choice(fold, "only candidate", name, scores={}, epochs={name: None}, weights={name: 1.0})


def score_of(predictions: Predictions, corpus: Corpus, metric: str) -> float:
    label = np.array(corpus.label_numbers(predictions.clips))
    matrix = metrics.confusion(label, predictions.log_p.argmax(1), len(corpus.labels))
    return float(metrics.scores(matrix)[metric])


def mix(choice: Choice, members: Mapping[str, Sequence[Predictions]]) -> Predictions:
    """The ensemble of one fold: log-probabilities averaged over seeds, then pooled by the candidates' weights."""
    every = [member for name in choice.weights for member in members[name]]
    return dataclasses.replace(
        every[0],
        log_p=pool.mix([held_out.mean_log_p(members[name]) for name in choice.weights], list(choice.weights.values())),
        parameters=sum(m.parameters for m in every),
        seconds=sum(m.seconds for m in every),
    )
