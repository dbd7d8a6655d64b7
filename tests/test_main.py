"""Every mode as a user runs it: real processes, real files."""

import csv
import json
import shutil
import subprocess
import sys

import cli
import numpy as np
import pages
import pytest
import soundfile
import tiny_whisper

from emoflax.corpora import synthetic

RUN = "tiny-synthetic-speakers5"


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a small synthetic corpus, and one trained tiny model."""
    folder = tmp_path_factory.mktemp("main")
    synthetic.make(folder / "voices", speakers=10, clips_per_emotion=2)
    (folder / "configs").mkdir()
    output = cli.run(*small(), "--config.report.html=True", "--record", cwd=folder)
    (folder / "output.txt").write_text(output)
    return folder


def small(which="tiny", **fields):
    fields = {"data.dir": "voices", "data.corpus": "synthetic"} | fields
    return [cli.config(which), *(f"--config.{field}={value}" for field, value in fields.items())]


def predictions(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_training_leaves_report_predictions_pictures_logs_and_checkpoints(place):
    run = place / "runs" / RUN
    report = json.loads((run / "report.json").read_text())
    assert report["corpus"] == "synthetic" and report["protocol"] == "speakers5"
    for score in ("uar", "accuracy", "macro_f1", "weighted_f1"):
        assert report["metrics"][score]["low"] <= report["metrics"][score]["mean"] <= report["metrics"][score]["high"]
    assert np.sum(report["confusion"]) == report["clips"] == len(predictions(run / "predictions.csv")) == 32
    for row in predictions(run / "predictions.csv"):
        assert row["corpus"] == "synthetic"
        assert sum(float(row[label]) for label in report["labels"]) == pytest.approx(1, abs=1e-4)
    text = (run / "report.md").read_text()
    assert text.strip() in (place / "output.txt").read_text()
    assert "no test speaker is in training" in text and "synthetic" in text.splitlines()[0]
    for picture in ("confusion.png", "curves.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    epochs = [json.loads(line) for line in (run / "seed0-fold1" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert all(0 <= line["dev_uar"] <= 1 for line in epochs)
    assert any((run / "seed0-fold1" / "tensorboard").iterdir()) and any((run / "tensorboard").iterdir())


def test_training_leaves_a_page_to_look_at_that_needs_nothing_beside_itself(place):
    shown = pages.check(place / "runs" / RUN / "report.html")
    uar = json.loads((place / "runs" / RUN / "report.json").read_text())["metrics"]["uar"]["mean"]
    assert f"{100 * uar:.1f}\xa0%" in shown.text and "the sound can reach 61 % UAR at best" in shown.text
    assert {"curves", "map", "speakers"} <= set(shown.sections())


def test_record_appends_one_line_per_metric_with_all_that_must_stand_beside_it(place):
    lines = [json.loads(line) for line in (place / "configs" / "results.jsonl").read_text().splitlines()]
    assert [line["metric"] for line in lines] == ["uar", "accuracy", "macro_f1", "weighted_f1"]
    wanted = "config protocol metric mean low high seeds ensemble pretrained command commit machine date"
    assert all(set(wanted.split()) <= set(line) for line in lines)
    report = json.loads((place / "runs" / RUN / "report.json").read_text())
    assert lines[0]["mean"] == pytest.approx(report["metrics"]["uar"]["mean"], abs=1e-4)


def test_the_ledger_writes_its_tables_into_the_page_of_results(place):
    page = place / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("# A\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    ledger = [sys.executable, "-m", "emoflax.reporting.ledger"]
    subprocess.run(ledger, cwd=place, env=cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT)}, check=True)
    text = page.read_text()
    assert "old" not in text and "after" in text and "**synthetic, `speakers5`**" in text and "| `tiny` |" in text


def test_the_same_command_again_trains_nothing_and_reports_the_same(place):
    log = place / "runs" / RUN / "seed0-fold1" / "metrics.jsonl"
    before, report = log.read_text(), json.loads((place / "runs" / RUN / "report.json").read_text())
    cli.run(*small(), cwd=place)
    assert log.read_text() == before
    assert json.loads((place / "runs" / RUN / "report.json").read_text())["metrics"] == report["metrics"]


def test_eval_scores_the_checkpoint_again(place):
    report = place / "runs" / RUN / "report.json"
    before = json.loads(report.read_text())
    report.unlink()
    output = cli.run(*small(), "--mode=eval", cwd=place)
    assert "UAR" in output and json.loads(report.read_text())["metrics"] == before["metrics"]


def test_prediction_from_the_checkpoint_alone_equals_the_evaluation(place, tmp_path):
    rows = predictions(place / "runs" / RUN / "predictions.csv")[:5]
    shutil.copytree(place / "runs" / RUN / "seed0-fold1", tmp_path / "model")  # no config, no cache, no corpus near
    inputs = [f"--inputs={place / 'voices' / row['clip']}.wav" for row in rows]
    cli.run("--mode=predict", "--checkpoint=model", *inputs, "--output=out.jsonl", cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, line in zip(rows, lines, strict=True):
        assert line["emotion"] == row["predicted"] and line["trained_on"] == "synthetic"
        for label, p in line["probabilities"].items():
            assert p == pytest.approx(float(row[label]), abs=2e-4)


def test_prediction_takes_any_format_rate_channels_and_length(place, tmp_path):
    rng = np.random.default_rng(0)

    def voice(rate_hz, seconds, channels=1):
        t = np.arange(int(rate_hz * seconds)) / rate_hz
        tone = 0.4 * np.sin(2 * np.pi * 200 * t) + 0.02 * rng.standard_normal(len(t))
        return np.repeat(tone[:, None], channels, axis=1)

    soundfile.write(tmp_path / "eight.wav", voice(8000, 1), 8000, subtype="PCM_U8")
    soundfile.write(tmp_path / "deep.wav", voice(96000, 1), 96000, subtype="PCM_24")
    soundfile.write(tmp_path / "float.wav", voice(44100, 1, 6), 44100, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", voice(16000, 0.05), 16000)
    soundfile.write(tmp_path / "long.flac", voice(16000, 600), 16000)
    soundfile.write(tmp_path / "a.mp3", voice(22050, 1), 22050)
    soundfile.write(tmp_path / "b.OGG", voice(48000, 1, 2), 48000, format="OGG")
    model = place / "runs" / RUN / "seed0-fold1"
    output = cli.run("--mode=predict", f"--checkpoint={model}", "--inputs=.", "--output=out.jsonl", cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == 7 and all(sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4) for line in lines)
    assert "long.flac" in output


def test_unreadable_inputs_are_named_and_the_others_are_still_predicted(place, tmp_path):
    soundfile.write(tmp_path / "good.wav", np.sin(np.arange(16000) / 20), 16000)
    (tmp_path / "text.wav").write_text("this is no sound")
    model = place / "runs" / RUN / "seed0-fold1"
    flags = ["--mode=predict", f"--checkpoint={model}", "--inputs=*.wav", "--output=out.jsonl"]
    output = cli.run(*flags, cwd=tmp_path, status=3)
    assert "1 of 2 files" in output and "text.wav" in output
    good, bad = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert good["file"] == "good.wav" and good["emotion"] and bad["file"] == "text.wav" and "not sound" in bad["error"]


def test_precompute_alone_fills_the_cache_and_a_changed_setting_gets_a_folder_of_its_own(place):
    cache = place / "cache" / "synthetic"
    before = {folder.name for folder in cache.iterdir()}
    assert len(before) == 1
    cli.run(*small(**{"audio.mels": 8}), "--mode=precompute", cwd=place)
    assert len({folder.name for folder in cache.iterdir()} - before) == 1


def test_words_and_sound_together_train_with_whisper_and_predict_and_explain_a_recording_and_a_text(place):
    tiny_whisper.write(place / "whisper.pt")
    synthetic.make(place / "few", speakers=5, clips_per_emotion=1)
    fields = {"name": "both", "data.dir": "few", "train.epochs": 1,
              "model.text": "gru", "model.fusion": "late", "model.pooling": "attention",
              "model.gru.hidden": 4, "model.gru.embedding": 4,
              "text.source": "whisper", "text.whisper_model": "whisper.pt"}  # fmt: skip
    output = cli.run(*small(**fields), cwd=place)
    assert "The words tell" in output and "word error rate of" in output
    model = place / "runs" / "both-synthetic-speakers5" / "seed0-fold1"
    voice = next((place / "few").rglob("*.wav"))
    (place / "alone.txt").write_text("What a day!")
    inputs = (f"--inputs={voice}", "--inputs=alone.txt")
    output = cli.run("--mode=predict", "--explain", f"--checkpoint={model}", *inputs, cwd=place)
    assert voice.name in output and "predicted from the words alone" in output
    for name in (voice.stem, "alone"):
        assert (place / f"{name}-attention.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_of_words_predicts_a_text_file(place):
    fields = {"text.source": "reference", "model.gru.hidden": 4, "model.gru.embedding": 4, "train.epochs": 1}
    cli.run(*small("gru", **fields), cwd=place)
    (place / "said.txt").write_text("Well, that was a lovely holiday!")
    model = place / "runs" / "gru-synthetic-speakers5" / "seed0-fold1"
    assert "said.txt" in cli.run("--mode=predict", f"--checkpoint={model}", "--inputs=said.txt", cwd=place)


def test_all_folds_and_two_seeds_pool_into_one_report_that_tests_every_clip_once_per_seed(place):
    fields = {"name": "pooled", "seeds": "(0,1)", "split.fold": "all", "train.epochs": 1}
    cli.run(*small(**fields), cwd=place)
    run = place / "runs" / "pooled-synthetic-speakers5"
    rows = predictions(run / "predictions.csv")
    assert len(rows) == 2 * 160 == 2 * len({row["clip"] for row in rows})
    report = json.loads((run / "report.json").read_text())
    assert report["speakers"] == 10 and len(report["metrics"]["uar"]["seeds"]) == 2


def test_a_random_split_says_that_speakers_are_shared(place):
    fields = {"split.protocol": "random_split", "split.dev_share": 0, "train.epochs": 1}
    output = cli.run(*small(**fields), cwd=place)
    assert "SHARED" in output
    report = (place / "runs" / "tiny-synthetic-random_split" / "report.md").read_text()
    assert "SHARED" in report


def test_without_ravdess_and_network_a_banner_precedes_the_stand_in_and_every_file_names_it(place, tmp_path):
    fields = {"data.corpus": "auto", "data.dir": "", "train.epochs": 1}
    output = cli.run(*small(**fields), cwd=tmp_path)
    assert "NO REAL SPEECH" in output
    run = tmp_path / "runs" / "tiny-synthetic-speakers5"
    assert "stand-in for RAVDESS" in (run / "report.md").read_text()
    assert "stand-in" in cli.run("--mode=predict", f"--checkpoint={run}/seed0-fold1",
                                 f"--inputs={next((place / 'voices').rglob('*.wav'))}", cwd=tmp_path)  # fmt: skip


def test_help_lists_modes_and_flags_in_a_moment(tmp_path):
    output = cli.run("--help", cwd=tmp_path, timeout=30)
    assert all(f"\n  {mode} " in output for mode in ("train", "predict", "benchmark"))
    assert all(f"\n  --{flag} " in output for flag in ("config", "mode", "inputs")) and len(output.splitlines()) < 60


def test_help_imports_no_jax(tmp_path):
    code = "import sys; from emoflax.main import run\ntry: run()\nfinally: print(sys.modules.keys() & {'jax', 'flax'})"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=tmp_path, env=cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("set()\n")


@pytest.mark.skipif(not cli.RAVDESS.is_dir(), reason="needs the real recordings beside the checkout")
def test_real_ravdess_goes_from_recordings_to_report_under_emobox6(tmp_path):
    fields = {"data.corpus": "ravdess", "data.dir": cli.RAVDESS, "train.epochs": 1}
    output = cli.run(*small(**fields), cwd=tmp_path)
    assert "corpus ravdess: 1440 clips, 24 speakers, 8 emotions" in output
    report = json.loads((tmp_path / "runs" / "tiny-ravdess-emobox6" / "report.json").read_text())
    assert report["clips"] == 240 and report["speakers"] == 4
