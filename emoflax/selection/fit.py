"""A model to keep: what a cross-validation chose, trained on all speakers, as one bundle.

    choice    candidates by their mean dev score over all folds; ensemble weights, epochs, the ensemble's temperature
              and its threshold for 'unsure' from all folds' inner predictions, of clips that no predicting model was
              trained on
    training  the candidates that have a weight, with every seed, on every clip of the corpus
    bundle    these models with their weights, and the scores that the cross-validation measured for their kind

No test clip has a part in the choice of models and weights. Where no cross-validation was made, one config's seeds are
trained and weigh the same, and the card says that no score was measured. Where one was made of a config that has
nothing to choose, its test predictions give the temperature: they are of speakers that the predicting models were not
trained on, and no score of this model is measured on them.

    runs/<name>-<corpus>-<protocol>-fit/<candidate>-seed0/    checkpoints, logs
    runs/<name>-<corpus>-<protocol>-fit/bundle/               unless --output names another folder
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax.data import splits
from emoflax.data.clip import Corpus
from emoflax.errors import UserError
from emoflax.experiment import evaluate, identity, population
from emoflax.experiment.evaluate import Predictions
from emoflax.experiment.members import Member, seeds
from emoflax.experiment.model import pretrained_encoders, takes_opensmile
from emoflax.experiment.run import train_member
from emoflax.files import read_json
from emoflax.inference import member as inference
from emoflax.parallel import workers
from emoflax.reporting import calibration
from emoflax.selection import crossval, held_out, pool
from emoflax.selection.candidates import candidates_of


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is trained on all speakers.

    Attributes:
      weights: candidate -> weight in the ensemble.
      epochs: candidate -> epochs; None: all.
      scores: candidate -> mean dev score over the folds; empty where nothing was chosen.
      measured: report.json of the cross-validation, of the ensemble or of the best candidate; None: there is none.
      calibration: of what is trained, `calibration.fitted` on all folds' predictions of speakers that the predicting
        models were not trained on; None: there are none.
    """

    weights: dict[str, float]
    epochs: dict[str, int | None]
    scores: dict[str, float]
    measured: dict[str, Any] | None
    calibration: dict[str, Any] | None = None


def choose(config: ConfigDict, corpus: Corpus, nested: pathlib.Path) -> Chosen:
    """From a cross-validation's folder; from the config alone, where it has nothing to choose from.

    Raises:
      UserError: there are candidates, but no finished cross-validation of this config.
    """
    candidates = candidates_of(config)
    if config.crossval.permute_labels:
        raise UserError("config.crossval.permute_labels shuffles the labels: a model of such is of no use; set it to 0")
    if not crossval.chooses(candidates):
        (name,) = candidates
        outer = crossval.nested_splits(config, corpus)[1] if nested.is_dir() else ()
        only = [crossval.only(name, split.fold) for split in outer]
        final = crossval.final_tasks(candidates, outer, only, nested)
        for task in final.values():  # a score of other settings?
            identity.check_early(task.config, corpus, task.member.checkpoints, task.member.split, task.member.seed)
        finished = final and all(task.kept.is_file() for task in final.values())
        test = {at: crossval.learn(task) for at, task in final.items()} if finished else {}
        measured = _measured(nested, config.fit.members)
        return Chosen({name: 1.0}, {name: None}, {}, measured, _calibrated(test, {name: 1.0}, corpus))
    inner = crossval.inner_tasks(candidates, crossval.nested_splits(config, corpus)[0], nested)
    if missing := [task for task in inner.values() if not task.kept.is_file()]:
        raise UserError(
            f"--mode=fit takes weights from a cross-validation, and {nested} has not finished one ("
            f"{len(missing)} of {len(inner)} inner models are missing); run --mode=crossval with the same flags first"
        )
    dev = dict(zip(inner, map(crossval.learn, inner.values()), strict=True))
    return weigh(dev, candidates, corpus, config.fit.members, _measured(nested, config.fit.members))


def weigh(
    dev: Mapping[tuple[int, str, int], Predictions], candidates: Mapping[str, ConfigDict], corpus: Corpus, kind: str,
    measured: dict[str, Any] | None = None,
) -> Chosen:  # fmt: skip
    """The choice from inner predictions by (fold, candidate, seed)."""
    folds = sorted({fold for fold, _, _ in dev})
    by_fold = [crossval.of_fold(dev, candidates, fold) for fold in folds]
    scores = {
        name: float(np.mean([crossval.score_of(p, corpus, candidates[name].train.select)
                             for own in by_fold for p in own[name]]))
        for name in candidates
    }  # fmt: skip
    epochs = {
        name: round(np.median([p.epoch for own in by_fold for p in own[name]]))
        if candidate.crossval.choose_epoch
        else None
        for name, candidate in candidates.items()
    }
    best = max(scores, key=scores.__getitem__)
    if kind == "best":
        return Chosen({best: 1.0}, epochs, scores, measured, _calibrated(dev, {best: 1.0}, corpus))
    weights = held_out.joined([held_out.of(own, corpus) for own in by_fold]).weights()
    return Chosen(weights, epochs, scores, measured, _calibrated(dev, weights, corpus))


def _calibrated(
    dev: Mapping[tuple[int, str, int], Predictions], weights: Mapping[str, float], corpus: Corpus
) -> dict[str, Any] | None:
    """Temperature and shares of right ones of the ensemble, from predictions by (fold, candidate, seed)."""
    if not dev:
        return None
    by_fold = [crossval.of_fold(dev, weights, fold) for fold in sorted({fold for fold, _, _ in dev})]
    known = held_out.joined([held_out.of(own, corpus) for own in by_fold])
    return calibration.fitted(pool.mix(known.log_p_MxNxC, [*weights.values()]), known.label_N)


def train(config: ConfigDict, corpus: Corpus, folder: pathlib.Path, chosen: Chosen) -> list[inference.Member]:
    """The chosen candidates with their seeds, trained on every clip; what an earlier command finished is taken over."""
    candidates, split = candidates_of(config), splits.everyone(corpus, config.split.protocol)
    tasks = [
        crossval.Task(
            candidates[name], Member(seed, split, folder / f"{name}-seed{seed}", chosen.epochs[name]), "train"
        )
        for name in chosen.weights
        for seed in seeds(candidates[name])
    ]
    for name in chosen.weights:
        crossval.open_features(candidates[name])  # computes what is missing, before several processes would
    if config.train.population > 1:
        population.train_members([_opened(task) for task in tasks], config.train.population)
    for done, (place, _) in enumerate(workers.run(_train, tasks, config.crossval.workers), start=1):
        logging.info("model %d of %d: %s", done, len(tasks), tasks[place].member.folder.name)
    return [
        inference.Member(
            task.member.folder.name,
            chosen.weights[name] / len(seeds(candidates[name])),
            evaluate.restore(task.member.checkpoints, last=True),
        )
        for task in tasks
        for name in [task.member.folder.name.rpartition("-seed")[0]]
    ]


def _train(task: crossval.Task) -> None:
    train_member(*_opened(task))


def _opened(task: crossval.Task) -> tuple:
    return task.config, crossval.open_features(task.config), task.member


def _measured(nested: pathlib.Path, kind: str) -> dict[str, Any] | None:
    path = nested / {"ensemble": "ensemble", "best": "one"}[kind] / "report.json"
    mend = "the same --mode=crossval command writes it anew"
    return read_json(path, mend=mend) if path.is_file() else None


def index_of(config: ConfigDict, corpus: Corpus, chosen: Chosen, made: Mapping[str, str]) -> dict[str, Any]:
    """What bundle.json says beside the members. `made`: with which version, commit, command and when."""
    from emoflax.corpora import licences

    sources = [source.name for source in corpus.sources or (corpus,)]
    of_data = [config.fit.licence] if config.fit.licence else [*map(licences.licence_of, sources)]
    candidates = candidates_of(config)
    needs = [licences.OPENSMILE] * any(takes_opensmile(candidates[name]) for name in chosen.weights)
    encoders = sorted({encoder for name in chosen.weights for encoder in pretrained_encoders(candidates[name])})
    scores = None
    if chosen.measured:
        kept = ("protocol", "protocol_note", "folds", "seeds", "clips", "speakers", "metrics", "date", "commit")
        scores = {name: chosen.measured[name] for name in kept}
    return {
        "name": config.name,
        "labels": list(corpus.labels),
        "corpus": corpus.name,
        "notice": corpus.notice,
        "trained_on": {"clips": len(corpus.clips), "speakers": len(corpus.speakers)},
        "licences": of_data + [*map(licences.licence_of_weights, encoders)] + needs,
        "pretrained": encoders,
        "chosen_by": {"dev_scores": chosen.scores, "members": config.fit.members},
        "scores": scores,
        "calibration": chosen.calibration,
        **made,
    }
