"""A finished run and its models in MLflow, where the config asks for it.

Scores and report are written before; what cannot be logged is warned of and costs no result.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax.data.clip import Corpus
from emoflax.experiment import identity
from emoflax.experiment.evaluate import Predictions
from emoflax.experiment.members import Member
from emoflax.files import parse_json
from emoflax.reporting import metrics, mlflow_log
from emoflax.training import monitor

_FILES = ("report.md", "report.json", "report.html", "predictions.csv", "confusion.png", "reliability.png",
          "curves.png")  # fmt: skip
# Shown of every run, so that runs can be compared; of the other fields those that differ from configs/default.py.
_ALWAYS = ("name", "model.audio", "model.text", "model.functionals", "optimizer.learning_rate", "train.epochs",
           "train.batch_size")  # fmt: skip


def check(config: ConfigDict) -> None:
    """Raises NotInstalled, before anything is computed, where MLflow is asked for and is missing."""
    if config.log.mlflow:
        mlflow_log.check()


def write(
    folder: pathlib.Path, config: ConfigDict, corpus: Corpus, predictions: Sequence[Predictions],
    members: Sequence[Member] = (),
) -> None:  # fmt: skip
    """Logs a run whose folder has report.json.

    Args:
      members: the models that made the predictions, in their order; none where these are of an ensemble or of models
        that are logged elsewhere.
    """
    place = config.log.mlflow
    if not place:
        return
    try:
        run, models = _entries(folder, config, corpus, predictions, members)
        mlflow_log.log(place, f"emoflax {run.tags['corpus']} {run.tags['protocol']}", run, models)
    except Exception as error:  # a server's troubles are of many kinds, and none of them is worth a result
        kind = type(error).__name__
        logging.warning("config.log.mlflow: not logged (%s: %s); scores and report are complete", kind, error)


def _entries(
    folder: pathlib.Path, config: ConfigDict, corpus: Corpus, predictions: Sequence[Predictions],
    members: Sequence[Member],
) -> tuple[mlflow_log.Entry, list[mlflow_log.Entry]]:  # fmt: skip
    """What is logged of the run, and of each of its models."""
    report, settings = parse_json((folder / "report.json").read_bytes()), settings_of(config)
    models = [
        mlflow_log.Entry(
            member.folder.name,
            settings | {"seed": p.seed, "fold": p.fold, "parameters": p.parameters, "chosen epoch": p.epoch},
            model_scores(p, corpus),
            monitor.read(member.folder),
        )
        for member, p in zip(members, predictions if members else (), strict=True)
    ]
    files = [folder / name for name in _FILES if (folder / name).exists()]
    tags = {name: report[name] for name in ("corpus", "protocol", "commit", "machine", "command")}
    return mlflow_log.Entry(folder.name, settings, scores_of(report), files=files, tags=tags), models


def settings_of(config: ConfigDict) -> dict[str, object]:
    """Fields by their dotted names: a few of every run, and those that differ from the default and change weights."""
    always = {}
    for name in _ALWAYS:
        group, _, field = name.rpartition(".")
        always[name] = (config[group] if group else config)[field]
    return always | identity.unusual(config)


def scores_of(report: dict) -> dict[str, float]:
    """Every number of report.json that is a score: 'test/uar', 'test/uar low', ..., 'test/recall happy'."""
    scores = {}
    for name in metrics.METRICS:
        for part, text in (("mean", ""), ("low", " low"), ("high", " high")):
            scores[f"test/{name}{text}"] = report["metrics"][name][part]
    scores |= {f"test/{name}": report["calibration"][name] for name in ("ece", "nll", "brier")}
    recall = zip(report["labels"], report["metrics"]["recall"]["mean"], strict=True)
    scores |= {f"test/recall {label}": share for label, share in recall}
    return {name: value for name, value in scores.items() if value is not None}


def model_scores(predictions: Predictions, corpus: Corpus) -> dict[str, float]:
    """Scores of one model's test clips."""
    label = np.array(corpus.label_numbers(predictions.clips))
    matrix = metrics.confusion(label, predictions.log_p.argmax(1), len(corpus.labels))
    return {f"test/{name}": float(value) for name, value in metrics.scores(matrix).items()}
