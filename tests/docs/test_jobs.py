"""The Python of docs/jobs runs as it is written there."""

import csv
import importlib
import io
import re
import sys

import cli
import damaged_files
import jax
import numpy as np
import pytest
import random_bundle
import soundfile
from fastapi import HTTPException, UploadFile

import emoflax
from emoflax.batch import Batch
from emoflax.configs import tiny
from emoflax.experiment.model import build_model

JOBS = cli.ROOT / "docs" / "jobs"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder holds the programs of a page; a function that writes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(page: str):
        for code, name in re.findall(r'^```python\n("""(\w+)\.py.*?)^```', (JOBS / page).read_text(), re.M | re.S):
            monkeypatch.delitem(sys.modules, name, raising=False)
            (tmp_path / f"{name}.py").write_text(code)
        return tmp_path

    return write


def test_the_app_of_the_service_page_predicts_what_a_phone_and_a_browser_record_and_names_what_it_cannot(here):
    folder = here("service.md")
    random_bundle.write(folder / "emotions")
    soundfile.write(folder / "speech.wav", damaged_files.voice(2.0), damaged_files.RATE_HZ)
    importlib.import_module("encode")
    app = importlib.import_module("app")
    assert len((folder / "app.py").read_text().splitlines()) <= 30
    model = emoflax.load(folder / "emotions")
    for name in ("speech.wav", "speech.m4a", "speech.webm"):
        with open(name, "rb") as file:
            answer = app.emotion(UploadFile(file, filename=name))
        (one,) = model.predict(name)
        assert answer.keys() == {"emotion", "probabilities", "notices"}
        assert (answer["emotion"], answer["notices"]) == (one.label, one.notices)
        assert answer["probabilities"] == pytest.approx(one.probabilities, abs=1e-6)
    with pytest.raises(HTTPException, match=r"422: .*notes\.wav"):
        app.emotion(UploadFile(io.BytesIO(b"no sound"), filename="notes.wav"))


def test_the_list_of_the_own_encoder_page_has_a_line_for_each_recording(here):
    folder = here("own-encoder.md")
    for name in ("f1/dis-f1-b1.wav", "m2/gio-m2-l4.wav"):
        (folder / "EMOVO" / name).parent.mkdir(parents=True)
        (folder / "EMOVO" / name).touch()
    importlib.import_module("make_list")
    with open("my_clips.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["file", "emotion", "speaker"],
            ["EMOVO/f1/dis-f1-b1.wav", "disgust", "f1"],
            ["EMOVO/m2/gio-m2-l4.wav", "happy", "m2"],
        ]


def test_a_padded_batch_gives_the_own_encoder_the_logits_of_each_clip_alone(here):
    here("own-encoder.md")
    config = tiny.get_config()
    config.model.audio, config.audio.mels = "my_module:Frames", 8
    model = build_model(config, 0, 3, seed=0)
    model.normalise.set(np.full(8, 1.0), np.full(8, 2.0))
    frames = np.array([40, 23], np.int32)
    logmel = np.random.default_rng(0).normal(size=(2, 40, 8)).astype(np.float32)
    logmel[1, 23:] = 0
    run = jax.jit(model)
    together = run(Batch(logmel=logmel, frames=frames))
    alone = run(Batch(logmel=logmel[1:, :23], frames=frames[1:]))
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)
