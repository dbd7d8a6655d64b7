"""Where a finished run is logged beside its report: in TensorBoard's files, and in MLflow where the config asks for it.

Scores and report are written before; what cannot be logged is warned of and costs no result.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax.configs import default
from emoflax.data.clip import Corpus
from emoflax.experiment.evaluate import Predictions
from emoflax.experiment.identity import NOT_COMPARED
from emoflax.experiment.members import Member
from emoflax.files import parse_json
from emoflax.reporting import metrics, mlflow_log
from emoflax.training import monitor
from emoflax.training.board import Board

PICTURES = ("confusion.png", "reliability.png", "curves.png")
_FILES = ("report.md", "report.json", "report.html", "predictions.csv", *PICTURES)
# Shown of every run, so that runs can be compared; of the other fields those that differ from configs/default.py.
_ALWAYS = ("name", "model.audio", "model.text", "model.functionals", "optimizer.learning_rate", "train.epochs",
           "train.batch_size")  # fmt: skip
_NOT_SHOWN = (*NOT_COMPARED, "crossval", "sweep", "data.labels")


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
    with _only_warned(f"{folder / 'tensorboard'}"):
        _to_tensorboard(folder, *_entries(folder, config, corpus, predictions, members), members)
    if config.log.mlflow:
        with _only_warned(f"config.log.mlflow={config.log.mlflow}"):
            run, models = _entries(folder, config, corpus, predictions, members)
            experiment = f"emoflax {run.tags['corpus']} {run.tags['protocol']}"
            mlflow_log.log(config.log.mlflow, experiment, run, models)


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


def _to_tensorboard(
    folder: pathlib.Path, run: mlflow_log.Entry, models: Sequence[mlflow_log.Entry], members: Sequence[Member]
) -> None:
    """Scores and pictures of the run, and of every model its test scores and a line of the table HPARAMS."""
    board = Board(folder / "tensorboard")
    board.add(run.scores, 0)
    for name in PICTURES:
        if (folder / name).exists():
            board.picture(name.removesuffix(".png"), (folder / name).read_bytes(), 0)
    if not models:
        board.hyperparameters(run.settings, run.scores)
    board.close()
    for member, model in zip(members, models, strict=True):
        board = Board(member.folder / "tensorboard" / "test")
        board.hyperparameters(model.settings, model.scores)
        board.add(model.scores, model.settings["chosen epoch"])
        board.close()


def settings_of(config: ConfigDict) -> dict[str, bool | float | str]:
    """Fields by their names: a few of every run, and those that differ from the default and change results."""
    usual, shown = _flat(default.get_config()), {}
    for name, value in _flat(config).items():
        hidden = any(name == field or name.startswith(f"{field}.") for field in _NOT_SHOWN)
        if name in _ALWAYS or (not hidden and value != usual.get(name)):
            shown[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return shown


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {f"{prefix}{name}": value}
    return flat


def scores_of(report: dict[str, Any]) -> dict[str, float]:
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
    label = np.array([corpus.labels.index(corpus.clips[i].label) for i in predictions.clips])
    matrix = metrics.confusion(label, predictions.log_p.argmax(1), len(corpus.labels))
    return {f"test/{name}": float(value) for name, value in metrics.scores(matrix).items()}


@contextlib.contextmanager
def _only_warned(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logging.warning("%s: not logged (%s: %s); scores and report are complete", where, type(error).__name__, error)
