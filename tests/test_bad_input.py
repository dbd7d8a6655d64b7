"""A mistake gets one clear sentence that names it, exit status 2, and no traceback."""

import json
import os
import shutil
import subprocess
import sys

import cli
import numpy as np
import pytest
import soundfile

RUN = "tiny-manifest-clips-speakers5"


def write_voices(folder, speakers=6):
    """A corpus of a user's own, with its manifest."""
    rng = np.random.default_rng(0)
    lines = ["file,emotion,speaker"]
    for speaker in range(speakers):
        for emotion, pitch_hz in (("happy", 300), ("sad", 120), ("angry", 220)):
            name = f"s{speaker}-{emotion}.wav"
            t = np.arange(8000) / 16000
            wave = 0.3 * np.sin(2 * np.pi * (pitch_hz + 5 * speaker) * t) + 0.01 * rng.standard_normal(len(t))
            soundfile.write(folder / name, wave, 16000)
            lines.append(f"{name},{emotion},s{speaker}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")


def flags(**fields):
    fields = {"data.corpus": "manifest", "data.dir": "clips.csv", "train.epochs": 1} | fields
    return [cli.config("tiny"), *(f"--config.{field}={value}" for field, value in fields.items())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    write_voices(folder)
    cli.run(*flags(), cwd=folder)
    return folder


@pytest.fixture
def place(trained, tmp_path):
    """A copy of a folder with recordings, cache and a trained model, to break."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def edit(place, old, new):
    text = (place / "clips.csv").read_text()
    assert old in text
    (place / "clips.csv").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("file,emotion,speaker", "file,speaker,colour", ["emotion"]),
        ("s0-happy.wav,happy", "s0-happy.wav,hapy", ["line 2", "hapy", "happy"]),
        ("s1-sad.wav,sad", "gone.wav,sad", ["gone.wav"]),
    ],
)
def test_a_mistake_in_the_manifest_is_named(place, old, new, words):
    edit(place, old, new)
    output = cli.run(*flags(), cwd=place, status=2)
    assert all(word in output for word in words)


def test_a_manifest_with_one_speaker_says_why_that_is_too_few(tmp_path):
    write_voices(tmp_path, speakers=1)
    assert "speaker" in cli.run(*flags(), cwd=tmp_path, status=2)


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--config.train.epoch=3", "config.train.epoch does not exist; did you mean config.train.epochs"),
        ("--config.train.epochs=many", "config.train.epochs=many must be a whole number of at least 1"),
        ("--config.seeds=(1,1)", "config.seeds=(1, 1) must be a tuple of 1 or more values"),
        ("--config.data.max_s=nan", "config.data.max_s=nan must be a number from 0.1 to 86400"),
        ("--config.model.aligned.rivals=8", "config.model.aligned.rivals does not exist any more"),
        ("--config=cnn9", "--config=cnn9: there is no such config; did you mean cnn3 or cnn2?\n"),
    ],
)
def test_a_misspelt_flag_field_or_value_is_named_before_a_corpus_is_looked_for(tmp_path, flag, sentence):
    output = cli.run(*flags(**{"data.dir": "nowhere.csv"}), flag, cwd=tmp_path, status=2)
    assert f"error: {sentence}" in output
    assert not list(tmp_path.iterdir())


def test_a_packaged_config_is_taken_by_its_name_from_any_folder_by_the_installed_command(tmp_path):
    """As the entry point of a wheel does, where `main` is a module of the package."""
    code = "import sys; from emoflax.main import run; sys.exit(run())"
    corpus = ("--config.data.corpus=manifest", "--config.data.dir=nowhere.csv")
    done = subprocess.run(
        [sys.executable, "-c", code, "--config=cnn2", *corpus], cwd=tmp_path, capture_output=True, text=True,
        env=cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT)},
    )  # fmt: skip
    assert done.returncode == 2 and "nowhere.csv" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["empty", "truncated", "silent", "nan", "text"])
def test_an_unreadable_recording_is_named_with_its_fault(tmp_path, kind):
    write_voices(tmp_path)
    victim = tmp_path / "s3-sad.wav"
    if kind == "empty":
        soundfile.write(victim, np.zeros(0), 16000)
    elif kind == "truncated":
        victim.write_bytes(victim.read_bytes()[:5000])
    elif kind == "silent":
        soundfile.write(victim, np.zeros(8000), 16000)
    elif kind == "nan":
        soundfile.write(victim, np.full(8000, np.nan), 16000, subtype="FLOAT")
    else:
        victim.write_text("not a recording")
    output = cli.run(*flags(), "--mode=precompute", cwd=tmp_path, status=2)
    assert "s3-sad" in output


def test_a_few_unreadable_clips_are_counted_listed_and_left_out(place):
    (place / "s3-sad.wav").write_text("not a recording")
    output = cli.run(*flags(**{"precompute.max_bad_share": 0.1}), "--workdir=other", cwd=place)
    assert "unreadable.jsonl" in output
    report = json.loads((place / "other" / RUN / "report.json").read_text())
    assert report["clips"] > 0


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_shard_is_named_with_the_remedy_and_a_removed_folder_is_made_anew(place, damage):
    shard = next((place / "cache").rglob("logmel-*/*.npy"))
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "changed":
        content = bytearray(shard.read_bytes())
        content[-50] ^= 0xFF
        shard.write_bytes(bytes(content))
    else:
        shard.unlink()
    output = cli.run(*flags(), "--mode=eval", cwd=place, status=2)
    assert shard.name in output and shard.parent.name in output
    shutil.rmtree(shard.parent)
    cli.run(*flags(), "--mode=eval", cwd=place)


def test_a_missing_or_damaged_checkpoint_is_named(place):
    run = place / "runs" / RUN / "seed0-fold1"
    state = max(run.rglob("d/*"), key=lambda path: path.stat().st_size)
    state.write_bytes(b"")
    output = cli.run("--mode=predict", f"--checkpoint={run}", "--inputs=s0-sad.wav", cwd=place, status=2)
    assert "checkpoint" in output
    assert "there is no trained model in nowhere" in cli.run(
        "--mode=predict", "--checkpoint=nowhere", "--inputs=s0-sad.wav", cwd=place, status=2
    )


def test_the_checkpoint_of_another_model_is_refused(place):
    output = cli.run(*flags(**{"model.cnn.channels": "(4,4)"}), "--mode=eval", cwd=place, status=2)
    assert "channels" in output


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc/self"), reason="needs a folder that cannot be made")
def test_an_unwritable_workdir_or_cache_is_named(place):
    (place / "file").write_text("in the way")
    assert "file/sub" in cli.run(*flags(), "--workdir=file/sub", cwd=place, status=2)
    assert "file" in cli.run(*flags(**{"data.cache_dir": "file/cache"}), cwd=place, status=2)


def test_predict_without_inputs_model_or_files_says_what_is_missing(place):
    assert "--inputs" in cli.run("--mode=predict", "--checkpoint=x", cwd=place, status=2)
    assert "--checkpoint" in cli.run("--mode=predict", "--inputs=s0-sad.wav", cwd=place, status=2)
    run = f"--checkpoint=runs/{RUN}/seed0-fold1"
    assert "none.wav" in cli.run("--mode=predict", run, "--inputs=none.wav", cwd=place, status=2)


def test_a_model_of_words_on_sound_without_words_says_so(place):
    output = cli.run(
        *flags(**{"name": "words", "model.audio": "", "model.text": "gru", "text.source": "reference"}),
        cwd=place,
        status=2,
    )
    assert "no reference text" in output
