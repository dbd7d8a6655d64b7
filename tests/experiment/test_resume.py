"""Killed at any moment and started again is the same as never killed: real processes, SIGKILL, SIGINT."""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import cli
import numpy as np
import pytest

from emoflax.configs import default
from emoflax.corpora import synthetic
from emoflax.experiment import evaluate
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.training.checkpoint import open_existing

RUN = pathlib.Path("tiny-synthetic-speakers5", "seed0-fold1")
EPOCHS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small corpus and the uninterrupted run."""
    folder = tmp_path_factory.mktemp("resume")
    synthetic.make(folder / "voices", speakers=10, clips_per_emotion=2)
    begin = time.monotonic()
    cli.run(*flags("whole"), cwd=folder)
    (folder / "seconds").write_text(str(time.monotonic() - begin))
    return folder


def flags(workdir, epochs=EPOCHS):
    return [
        cli.config("tiny"), "--config.data.corpus=synthetic", "--config.data.dir=voices", f"--workdir={workdir}",
        f"--config.train.epochs={epochs}", "--config.train.ema=0.9",
    ]  # fmt: skip


def start(folder, workdir, epochs=EPOCHS):
    return subprocess.Popen(
        cli.command(*flags(workdir, epochs)), cwd=folder, env=cli.ENVIRONMENT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def arrays(run):
    """Of the training state after the last epoch, and of the weights that are used."""
    import jax

    checkpoints, config = open_existing(run / "checkpoints"), default.get_config()
    there = checkpoints.describe(EPOCHS)
    config.update(there["config"])
    model = build_model(config, len(there["vocabulary"]), len(there["labels"]), seed=0)
    state = checkpoints.restore_state(EPOCHS, train_config_of(config, model, steps_per_epoch=1).init(model, 0))
    return [np.asarray(leaf) for leaf in jax.tree.leaves([state, evaluate.restore(run / "checkpoints").state])]


def flip_a_bit(epoch):
    """In the largest file of an epoch's weights; the file."""
    path = max((epoch / "model").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return path


def wait_for_epoch(process, log, epoch):
    """Returns when `epoch` is in the log, or the process is over."""
    while process.poll() is None and not (log.exists() and f'"epoch": {epoch},' in log.read_text()):
        time.sleep(0.01)


def test_killed_at_five_random_moments_and_resumed_equals_uninterrupted_bit_for_bit(place):
    moments = random.Random(5)
    log = place / "killed" / RUN / "metrics.jsonl"
    for epoch in sorted(moments.sample(range(1, EPOCHS), 5)):
        process = start(place, "killed")
        wait_for_epoch(process, log, epoch)
        time.sleep(moments.uniform(0, 0.3))  # somewhere between two epochs, or while a checkpoint is written
        process.kill()
        process.communicate()
    cli.run(*flags("killed"), cwd=place)
    whole, killed = arrays(place / "whole" / RUN), arrays(place / "killed" / RUN)
    assert all(np.array_equal(a, b) for a, b in zip(whole, killed, strict=True))
    last, again = (open_existing(place / name / RUN / "checkpoints") for name in ("whole", "killed"))
    assert last.dev(EPOCHS) == again.dev(EPOCHS)
    assert last.describe(EPOCHS)["calibration"] == again.describe(EPOCHS)["calibration"]
    lines = [[json.loads(line) for line in (place / name / RUN / "metrics.jsonl").read_text().splitlines()]
             for name in ("whole", "killed")]  # fmt: skip
    assert [line["epoch"] for line in lines[1]] == list(range(1, EPOCHS + 1))
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    reports = [json.loads((place / name / RUN.parent / "report.json").read_text()) for name in ("whole", "killed")]
    assert reports[0]["metrics"] == reports[1]["metrics"]


@pytest.mark.parametrize("notice", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_with_a_sentence_and_loses_no_finished_epoch(place, notice):
    process = start(place, f"stopped{notice}")
    log = place / f"stopped{notice}" / RUN / "metrics.jsonl"
    wait_for_epoch(process, log, 1)
    process.send_signal(notice)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in output and "Traceback" not in output
    kept = max(int(path.name) for path in (log.parent / "checkpoints").iterdir() if path.name.isdigit())
    assert kept >= 1
    assert f"after epoch {kept}" in cli.run(*flags(f"stopped{notice}"), cwd=place)


def test_a_folder_that_holds_a_run_with_other_settings_is_not_touched_and_no_features_are_computed_for_it(place):
    def touched():
        return sorted(place.glob("cache/synthetic/*")), sorted((place / "whole" / RUN / "checkpoints").iterdir())

    before = touched()
    for field, change in (("optimizer.learning_rate", "0.002 -> 0.5"), ("audio.mels", "16 -> 8")):
        output = cli.run(*flags("whole"), f"--config.{field}={change.split()[-1]}", cwd=place, status=2)
        assert f"config.{field}: {change}" in output and "--workdir" in output
    assert touched() == before


def test_a_damaged_last_epoch_is_trained_again_from_the_one_before_and_gives_the_same(place):
    shutil.copytree(place / "whole", place / "damaged")
    run = place / "damaged" / RUN
    damaged = flip_a_bit(run / "checkpoints" / str(EPOCHS))
    output = cli.run(*flags("damaged"), cwd=place)
    relative = damaged.relative_to(place)
    assert f"{relative} is damaged: its checksum is wrong; epoch {EPOCHS - 1} is used in the place of" in output
    assert f"after epoch {EPOCHS - 1}" in output
    assert all(np.array_equal(a, b) for a, b in zip(arrays(place / "whole" / RUN), arrays(run), strict=True))


def test_a_run_without_a_whole_checkpoint_neither_resumes_nor_predicts(place):
    shutil.copytree(place / "whole", place / "lost")
    run = place / "lost" / RUN
    damaged = [flip_a_bit(epoch).relative_to(place) for epoch in (run / "checkpoints").iterdir()]
    voice = next((place / "voices").rglob("*.wav"))
    for command in (flags("lost"), ["--mode=predict", f"--checkpoint=lost/{RUN}", f"--inputs={voice}"]):
        output = cli.run(*command, cwd=place, status=2)
        assert any(f"{path} is damaged" in output for path in damaged) and "no other whole checkpoint" in output


def test_a_second_command_on_a_run_folder_ends_with_a_sentence_and_a_killed_one_leaves_no_lock(place):
    process = start(place, "busy", epochs=500)
    wait_for_epoch(process, place / "busy" / RUN / "metrics.jsonl", 1)
    for mode in ("train", "eval"):
        output = cli.run(*flags("busy", epochs=500), f"--mode={mode}", cwd=place, status=2)
        assert "another command is at work in" in output and "busy/tiny-synthetic-speakers5" in output
    assert process.poll() is None
    process.kill()
    process.communicate()
    cli.run(*flags("busy", epochs=500), "--mode=eval", cwd=place)


def test_a_model_whose_code_has_changed_is_neither_trained_nor_scored_nor_used(place):
    copy = place / "edited"
    for name in ("emoflax", "configs", "precompute"):
        shutil.copytree(cli.ROOT / name, copy / name)
    shutil.copy(cli.ROOT / "main.py", copy)
    edited, report = copy / "emoflax" / "models" / "conv.py", place / "whole" / RUN.parent / "report.json"
    before, voice = report.read_bytes(), next((place / "voices").rglob("*.wav"))
    predict = ["--mode=predict", f"--checkpoint=whole/{RUN}", f"--inputs={voice}"]
    commands = (flags("whole"), [*flags("whole"), "--mode=eval"], predict)
    edited.write_text(edited.read_text() + "\n# a remark\n")
    run_copy(copy, predict, place, status=0)
    edited.write_text(edited.read_text() + "\nEPSILON = 1e-3\n")
    for command in commands:
        output = run_copy(copy, command, place, status=2)
        assert "other code: emoflax.models.conv changed since" in output and "Traceback" not in output
    assert report.read_bytes() == before


def run_copy(root, command, cwd, status):
    """What the main.py of another checkout printed."""
    command = [sys.executable, str(root / "main.py"), *map(str, command)]
    done = subprocess.run(command, cwd=cwd, env=cli.ENVIRONMENT, text=True, capture_output=True, timeout=240)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr
