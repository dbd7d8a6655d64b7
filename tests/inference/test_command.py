"""--mode=predict with a bundle or a run: processes as a user starts them."""

import json
import re
import subprocess
import sys

import cli
import numpy as np
import pytest
import soundfile

import emoflax
from emoflax.corpora import synthetic
from emoflax.inference import sources
from emoflax.reporting import calibration

RUN = "runs/tiny-synthetic-speakers5"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two trained seeds, and a bundle of another fit."""
    folder = tmp_path_factory.mktemp("command")
    synthetic.make(folder / "voices", speakers=5, clips_per_emotion=1)
    flags = (cli.config("tiny"), "--config.data.corpus=synthetic", "--config.data.dir=voices", "--config.seeds=(0,1)",
             "--config.train.epochs=2", "--config.precompute.workers=1")  # fmt: skip
    cli.run(*flags, cwd=folder)
    output = cli.run(*flags, "--mode=fit", "--config.data.cache_dir=cache", "--output=model", cwd=folder)
    assert "no score was measured" in output and "bundle of 2 models: model" in output
    return folder


def predict(place, *flags, status=0):
    output = cli.run("--mode=predict", "--output=out.jsonl", *flags, cwd=place, status=status)
    return output, [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]


def test_a_bundle_predicts_files_and_the_command_that_made_it_is_in_its_card_without_folders(place):
    output, lines = predict(place, "--checkpoint=model", "--inputs=voices/speaker_01")
    assert len(lines) == 8 and "synthetic voices" in output and "speaker_01/angry-01.wav" in output
    for line in lines:
        assert line["emotion"] in line["probabilities"] and sum(line["probabilities"].values()) == pytest.approx(
            1, abs=1e-4
        )
    card = (place / "model" / "README.md").read_text()
    assert (
        "--mode=fit" in card and "voices`" not in card and "cache_dir" not in card and "No score was measured" in card
    )


def test_rows_over_time_have_their_times_and_silence_is_marked(place):
    wave, rate_hz = soundfile.read(place / "voices" / "speaker_01" / "angry-01.wav")
    soundfile.write(place / "long.wav", np.concatenate([wave, np.zeros(3 * rate_hz), wave]), rate_hz)
    windows = ("--window_s=1", "--hop_s=0.5", "--smooth_s=1")
    output, lines = predict(place, "--checkpoint=model", "--inputs=long.wav", *windows)
    assert "from s" in output and "(silence)" in output
    assert [line["start_s"] for line in lines[:3]] == [0, 0.5, 1] and all(
        line["end_s"] > line["start_s"] for line in lines
    )
    silent = [line for line in lines if line["silent"]]
    assert 3 <= len(silent) < len(lines) and all(
        line["emotion"] is None and not line["probabilities"] for line in silent
    )
    output, lines = predict(place, f"--checkpoint={RUN}/seed0-fold1", "--inputs=long.wav", "--window_s=2")
    assert len(lines) > 2


def test_a_run_pools_its_models_and_what_cannot_be_read_is_named_after_the_others(place):
    (place / "bad.wav").write_text("this is no sound")
    inputs = ("--inputs=bad.wav", "--inputs=voices/speaker_01/sad-01.wav")
    output, (bad, pooled) = predict(place, f"--checkpoint={RUN}", *inputs, status=3)
    assert "1 of 2 files could not be read" in output and "bad.wav" in output and "not sound" in bad["error"]
    each = [predict(place, f"--checkpoint={RUN}/seed{seed}-fold1", inputs[1])[1][0] for seed in (0, 1)]
    models = [emoflax.load(place / RUN / f"seed{seed}-fold1").members[0] for seed in (0, 1)]
    temperature = [calibration.temperature_of(one.trained.description) for one in models]  # of a model by itself
    log_p = np.log([list(line["probabilities"].values()) for line in each])
    log_p = np.mean(
        [calibration.tempered(row[None], 1 / t)[0] for row, t in zip(log_p, temperature, strict=True)], axis=0
    )
    p = np.exp(log_p) / np.exp(log_p).sum()
    assert list(pooled["probabilities"].values()) == pytest.approx(p.tolist(), abs=1e-4)


def test_a_run_without_inputs_is_listed_with_the_weight_of_each_model(place):
    lines = sources.listing(place / RUN).splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [[f"seed{seed}-fold1", "0.500"] for seed in (0, 1)]
    assert "synthetic, speakers5, fold 1" in lines[1]


def test_what_cannot_be_is_refused_before_work(place):
    bundle = ("--mode=predict", "--checkpoint=model", "--inputs=voices")
    assert "name RUN/seed0-fold1" in cli.run(*bundle, "--explain", cwd=place, status=2)
    assert "give window_s" in cli.run(*bundle, "--hop_s=1", cwd=place, status=2)
    assert "voices exists and is no bundle" in cli.run(
        cli.config("tiny"), "--config.data.corpus=synthetic", "--config.data.dir=voices", "--mode=fit",
        "--output=voices", cwd=place, status=2,
    )  # fmt: skip


def test_the_three_lines_of_the_documents_run_as_they_are_written(place, tmp_path):
    page = (cli.ROOT / "docs" / "using-a-model.md").read_text()
    (lines,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "emotions").symlink_to(place / "model")
    for name, voice in (("a.wav", "angry-01.wav"), ("b.wav", "sad-01.wav")):
        (tmp_path / name).symlink_to(place / "voices" / "speaker_01" / voice)
    environment = cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT)}
    done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["a.wav", "b.wav"]
