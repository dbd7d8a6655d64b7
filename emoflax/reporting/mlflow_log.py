"""A finished run in MLflow: one run of the command, with report and pictures, and below it one of each model.

Logged once the report is written, from the files of the run: training waits for no server and none can end it, and a
run that was resumed is logged whole. TensorBoard shows a run while it goes.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emoflax.errors import NotInstalled, optional

WHAT, EXTRA = "config.log.mlflow", "mlflow"
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # that MLflow takes at once
# A server that does not answer costs a minute, not ten; a folder is a store that MLflow still has but no longer
# extends; and nothing of a run goes to any other place than the one that was named.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run of MLflow: its settings, scores, lines of numbers with an 'epoch' each, and files."""

    name: str
    settings: Mapping[str, Any]
    scores: Mapping[str, float]
    epochs: Sequence[Mapping[str, Any]] = ()
    files: Sequence[pathlib.Path] = ()
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)


def check() -> None:
    """Raises NotInstalled where MLflow is missing; does not import it, which takes seconds."""
    if importlib.util.find_spec("mlflow") is None:
        raise NotInstalled(f"{WHAT} needs MLflow, which is not installed: pip install 'emoflax[{EXTRA}]'")


def address(place: str) -> str:
    """The URI of a tracking server or store; a folder's is made."""
    return place if re.match(r"[a-z][a-z0-9+.-]+:", place) else pathlib.Path(place).absolute().as_uri()


def log(place: str, experiment: str, run: Entry, models: Sequence[Entry]) -> None:
    """Logs a run and, as runs nested in it, its models; `place`: a URI or a folder."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with optional(WHAT, EXTRA):
        from mlflow.tracking import MlflowClient
    client = MlflowClient(address(place))
    known = client.get_experiment_by_name(experiment)
    number = known.experiment_id if known else client.create_experiment(experiment)
    parent = _log_one(client, number, run, {})
    for model in models:
        _log_one(client, number, model, {"mlflow.parentRunId": parent})


def _log_one(client: Any, experiment: str, entry: Entry, tags: Mapping[str, str]) -> str:
    from mlflow.entities import Metric, Param

    identity: str = client.create_run(experiment, run_name=entry.name, tags={**entry.tags, **tags}).info.run_id
    now = int(1000 * time.time())
    settings = [Param(name, str(value)[:6000]) for name, value in entry.settings.items()]
    for at in range(0, len(settings), _MOST_PARAMETERS):
        client.log_batch(identity, params=settings[at : at + _MOST_PARAMETERS])
    metrics = [Metric(_key(name), value, now, step) for name, value, step in _numbers(entry)]
    for at in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(identity, metrics=metrics[at : at + _MOST_METRICS])
    for file in entry.files:
        client.log_artifact(identity, str(file))
    client.set_terminated(identity)
    return identity


def _numbers(entry: Entry) -> Iterator[tuple[str, float, int]]:
    """(name, value, epoch) of all that was measured; scores belong to the end."""
    for line in entry.epochs:
        yield from ((name, x, line["epoch"]) for name, x in line.items() if name != "epoch" and x is not None)
    last = entry.epochs[-1]["epoch"] if entry.epochs else 0
    yield from ((name, value, last) for name, value in entry.scores.items())


def _key(name: str) -> str:
    """Letters, digits, '_', '-', '.', ' ' and '/' are what MLflow takes in a name."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)
