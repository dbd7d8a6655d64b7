"""What MLflow is given of a finished run, and that a log that fails, or is not wanted, costs nothing."""

import json
import logging

import numpy as np
import pytest

from emoflax.configs import attention_cnn, tiny
from emoflax.data.clip import Clip, Corpus
from emoflax.data.splits import Split
from emoflax.experiment import identity, logs
from emoflax.experiment.evaluate import Predictions
from emoflax.experiment.members import Member
from emoflax.reporting import calibration, metrics, report

LABELS = ("calm", "happy")
FACTS = report.Facts(
    config="c", corpus="toy", notice="", protocol="loso", protocol_note="", folds=(1,), seeds=(0, 1), clips=4,
    speakers=2, parameters=10, seconds=2.0, command="python main.py", commit="abc", machine="m", date="d",
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A folder with the report of two seeds of one fold, its config, corpus, predictions and models."""
    clips = tuple(Clip(id=f"{s}{label}", label=label, speaker=s, path=None) for s in "ab" for label in LABELS)
    right, label = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 0, 1])
    every = [Predictions(seed, 1, 2, np.arange(4), p, 10, 1.0) for seed, p in enumerate((right, right[:, ::-1]))]
    speaker = np.array(list("aabb"))
    confusions = np.stack([metrics.speaker_confusions(label, p.log_p.argmax(1), speaker, 2) for p in every])
    calibrated = calibration.summarise([p.log_p for p in every], [label, label])
    report.write(tmp_path, FACTS, LABELS, confusions, metrics.summarise(confusions), calibrated)
    none = np.zeros(0, int)
    split = Split("loso", 1, none, none, np.arange(4), False)
    members = [Member(seed, split, tmp_path / f"seed{seed}-fold1") for seed in (0, 1)]
    for member in members:
        member.folder.mkdir()
        (member.folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "loss": 0.5}) + "\n")
    return tmp_path, tiny.get_config(), Corpus("toy", LABELS, clips), every, members


def test_a_run_is_logged_with_its_scores_and_files_and_every_model_with_its_own(run, monkeypatch):
    logged = []
    monkeypatch.setattr(logs.mlflow_log, "log", lambda *arguments: logged.append(arguments))
    logs.write(*run)
    assert not logged  # not asked for
    run[1].log.mlflow = "a place"
    logs.write(*run)
    ((place, experiment, whole, models),) = logged
    assert place == "a place" and "toy" in experiment and "loso" in experiment
    assert whole.scores["test/uar"] == 0.5 and whole.scores["test/recall happy"] == 0.5
    assert {"report.md", "confusion.png"} <= {file.name for file in whole.files} and whole.tags["commit"] == "abc"
    assert [(m.name, m.settings["seed"], m.scores["test/uar"], m.epochs) for m in models] == [
        ("seed0-fold1", 0, 1.0, [{"epoch": 1, "loss": 0.5}]), ("seed1-fold1", 1, 0.0, [{"epoch": 1, "loss": 0.5}]),
    ]  # fmt: skip


def test_settings_are_a_few_that_all_runs_have_and_what_a_config_changes():
    usual, other = logs.settings_of(tiny.get_config()), attention_cnn.get_config()
    other.data.cache_dir, other.log.mlflow, other.split.fold = "/elsewhere", "http://someone:secret@host", "all"
    shown = logs.settings_of(other)
    assert set(logs._ALWAYS) <= set(usual) & set(shown) and shown["model.pooling"] == "attention"
    assert not {"data.cache_dir", "log.mlflow", "split.fold"} & set(shown)


def test_where_a_run_is_logged_is_in_no_checkpoint_and_changes_no_identity(run):
    _, config, corpus, _, members = run
    kept = identity.known_before_features(config, corpus, members[0].split, 0)
    config.log.mlflow = "http://someone:secret@host"
    known = identity.known_before_features(config, corpus, members[0].split, 0)
    assert identity.key(known) == identity.key(kept) and "secret" not in json.dumps(known)


def test_a_log_that_cannot_be_written_is_a_warning(run, caplog, monkeypatch):
    def no_answer(*_):
        raise ConnectionError("no answer")

    monkeypatch.setattr(logs.mlflow_log, "log", no_answer)
    run[1].log.mlflow = "a place"
    with caplog.at_level(logging.WARNING):
        logs.write(*run)
    (warned,) = [record.getMessage() for record in caplog.records]
    assert "no answer" in warned and "scores and report are complete" in warned
