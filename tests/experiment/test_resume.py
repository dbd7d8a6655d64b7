"""Killed at any moment and started again is the same as never killed: real processes, SIGKILL, SIGINT."""

import json
import pathlib
import random
import signal
import subprocess
import time

import cli
import numpy as np
import pytest

from emoflax.corpora import synthetic
from emoflax.experiment import evaluate

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


def start(folder, workdir):
    return subprocess.Popen(
        cli.command(*flags(workdir)), cwd=folder, env=cli.ENVIRONMENT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def arrays(run):
    import jax

    state = evaluate.restore(run / "checkpoints").state
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


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


def test_a_folder_that_holds_a_run_with_other_settings_is_not_touched(place):
    checkpoints = place / "whole" / RUN / "checkpoints"
    before = sorted(path.name for path in checkpoints.iterdir())
    output = cli.run(*flags("whole"), "--config.optimizer.learning_rate=0.5", cwd=place, status=2)
    assert "config.optimizer.learning_rate: 0.002 -> 0.5" in output and "--workdir" in output
    assert sorted(path.name for path in checkpoints.iterdir()) == before
