"""What TensorBoard finds of a finished run, which settings are shown with it, and that a log that fails costs nothing."""

import json
import logging
import pathlib
import struct

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
    """A folder with the report of two seeds of one fold, its corpus, predictions and models."""
    clips = tuple(Clip(id=f"{s}{label}", label=label, speaker=s, path=None) for s in "ab" for label in LABELS)
    corpus = Corpus("toy", LABELS, clips)
    right = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    every = [Predictions(seed, 1, 2, np.arange(4), p, 10, 1.0) for seed, p in enumerate((right, right[:, ::-1]))]
    confusions = np.stack([metrics.speaker_confusions(
        np.array([0, 1, 0, 1]), p.log_p.argmax(1), np.array(list("aabb")), 2) for p in every])  # fmt: skip
    calibrated = calibration.summarise([p.log_p for p in every], [np.array([0, 1, 0, 1])] * 2)
    report.write(tmp_path, FACTS, LABELS, confusions, metrics.summarise(confusions), calibrated)
    none = np.zeros(0, int)
    members = [
        Member(seed, Split("loso", 1, none, none, np.arange(4), False), tmp_path / f"seed{seed}-fold1")
        for seed in (0, 1)
    ]
    for member in members:
        member.folder.mkdir()
        (member.folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "loss": 0.5}) + "\n")
    return tmp_path, tiny.get_config(), corpus, every, members


def events(folder: pathlib.Path) -> dict:
    """Tag -> value, of every file of events directly in the folder; each record: length, sum, event, sum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.glob("events*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            for value in Event.FromString(data[at + 12 : at + 12 + length]).summary.value:
                assert value.tag not in found, f"{value.tag} is there twice"
                found[value.tag] = value
            at += 16 + length
    return found


def test_tensorboard_gets_scores_and_pictures_of_the_run_and_a_line_of_every_model_once(run):
    folder, *rest = run
    for _ in range(2):  # as --mode=eval does again
        logs.write(folder, *rest)
    whole = events(folder / "tensorboard")
    assert whole["test/uar"].simple_value == pytest.approx(0.5) and "test/recall happy" in whole
    image = whole["confusion"].image
    assert image.encoded_image_string == (folder / "confusion.png").read_bytes()
    assert (image.width, image.height) == (372, 312)
    for seed, uar in ((0, 1.0), (1, 0.0)):
        own = events(folder / f"seed{seed}-fold1" / "tensorboard" / "test")
        assert own["test/uar"].simple_value == uar
        start = own["_hparams_/session_start_info"].metadata.plugin_data.content
        assert b"optimizer.learning_rate" in start and b"seed" in start


def test_settings_are_a_few_that_all_runs_have_and_what_a_config_changes():
    usual, other = logs.settings_of(tiny.get_config()), attention_cnn.get_config()
    other.data.cache_dir, other.log.mlflow, other.split.fold = "/elsewhere", "http://someone:secret@host", "all"
    shown = logs.settings_of(other)
    assert set(logs._ALWAYS) <= set(usual) & set(shown) and shown["model.pooling"] == "attention"
    assert not {"data.cache_dir", "log.mlflow", "split.fold"} & set(shown) and len(shown) < 60


def test_where_a_run_is_logged_is_in_no_checkpoint_and_changes_no_identity(run):
    _, config, corpus, _, members = run
    kept = identity.known_before_features(config, corpus, members[0].split, 0)
    config.log.mlflow = "http://someone:secret@host"
    known = identity.known_before_features(config, corpus, members[0].split, 0)
    assert identity.key(known) == identity.key(kept) and "secret" not in json.dumps(known)


def test_a_log_that_cannot_be_written_is_a_warning(run, caplog, monkeypatch):
    folder, config, *rest = run
    (folder / "tensorboard").write_text("a file in the place of the folder")
    config.log.mlflow = str(folder / "store")
    monkeypatch.setattr(logs.mlflow_log, "log", lambda *_: (_ for _ in ()).throw(ConnectionError("no answer")))
    with caplog.at_level(logging.WARNING):
        logs.write(folder, config, *rest)
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2 and all("scores and report are complete" in text for text in warned)
    assert "tensorboard" in warned[0] and "no answer" in warned[1]
