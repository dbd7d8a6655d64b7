"""A closed-form model of a pretrained encoder's states: fitted, scored and used for prediction by real commands."""

import csv
import json

import cli
import numpy as np
import pytest
import tiny_whisper

from emoflax.corpora import synthetic

FIELDS = {
    "data.corpus": "synthetic", "data.dir": "voices", "states.layers": "(1,2)", "functionals.speeds": "(1.0,0.9)",
    "states.silence_s": 0.2, "states.parts": 2, "split.protocol": "speakers5", "name": "states",
}  # fmt: skip


def options(weights, **fields):
    every = FIELDS | {"states.weights": weights} | fields
    return [cli.config("whisper_states"), *(f"--config.{name}={value}" for name, value in every.items())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    tiny_whisper.write(folder / "tiny.pt", audio_layers=2, weight_scale=0.3)
    synthetic.make(folder / "voices", speakers=5, clips_per_emotion=1)
    cli.run(*options("tiny.pt"), cwd=folder)
    return folder


def test_a_prediction_from_a_recording_is_that_of_the_evaluation(folder):
    run = folder / "runs" / "states-synthetic-speakers5"
    with (run / "predictions.csv").open() as file:
        scored = list(csv.DictReader(file))[:3]
    inputs = [f"--inputs=voices/{row['clip']}.wav" for row in scored]
    cli.run("--mode=predict", f"--checkpoint={run}/seed0-fold1", *inputs, "--output=out.jsonl", cwd=folder)
    for line, row in zip((folder / "out.jsonl").read_text().splitlines(), scored, strict=True):
        for label, p in json.loads(line)["probabilities"].items():
            assert float(row[label]) == pytest.approx(p, abs=1e-4)
    report = json.loads((run / "report.json").read_text())
    assert report["pretrained"] is True and report["parameters"] == 8 * (1 + 2 * 4 * 16)


def test_a_learned_sum_of_the_layers_trains_and_predicts_as_it_was_scored(folder):
    arguments = options("tiny.pt", **{"name": "layers", "states.layers": "()", "model.layer_sum.penalties": "(0.01,)"})
    cli.run(cli.config("whisper_layers"), *arguments[1:], cwd=folder)
    run = folder / "runs" / "layers-synthetic-speakers5"
    with (run / "predictions.csv").open() as file:
        row = next(csv.DictReader(file))
    inputs = f"--inputs=voices/{row['clip']}.wav"
    cli.run("--mode=predict", f"--checkpoint={run}/seed0-fold1", inputs, "--output=layers.jsonl", cwd=folder)
    for label, p in json.loads((folder / "layers.jsonl").read_text())["probabilities"].items():
        assert float(row[label]) == pytest.approx(p, abs=1e-4)
    parameters = json.loads((run / "report.json").read_text())["parameters"]
    assert parameters == 3 + 8 * (1 + 4 * 16)  # three layers; mean, deviation and two parts of each, 16 wide


def test_of_a_nested_evaluation_only_the_reports_of_pretrained_candidates_say_so(folder):
    own = "from emoflax.configs import best_whisper\n\ndef get_config():\n    config = best_whisper.get_config()\n"
    own += '    del config.crossval.candidates["aligned"]\n    return config\n'
    (folder / "two.py").write_text(own)
    arguments = options("tiny.pt", **{"name": "two", "split.fold": 1})
    cli.run("--mode=crossval", "--config=two.py", *arguments[1:], cwd=folder)
    inner = folder / "runs" / "two-synthetic-speakers5-nested" / "inner"
    said = {path.parent.name: json.loads(path.read_text())["pretrained"] for path in inner.glob("*/report.json")}
    assert said == {"whisper_states": True, "functionals": False}


def test_other_weights_are_refused_where_a_run_lies(folder):
    tiny_whisper.write(folder / "other.pt", 1, audio_layers=2)
    output = cli.run(*options("other.pt"), cwd=folder, status=2)
    assert "holds a run with other settings (features.states" in output


@pytest.mark.parametrize("layers", ["(3,)", "(0,7)"])
def test_layers_that_the_encoder_does_not_have_are_one_sentence(folder, layers):
    output = cli.run(*options("tiny.pt", **{"states.layers": layers, "name": "other"}), cwd=folder, status=2)
    assert "tiny.pt has layers 0 to 2" in output and not np.any(["Traceback" in line for line in output.splitlines()])
