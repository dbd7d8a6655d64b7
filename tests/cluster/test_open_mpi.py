"""Open MPI on this one machine: `mpirun` starts the processes, and no flag says where they meet.

Needs Debian's openmpi-bin; skips where it is not.
"""

import json
import shutil
import subprocess

import cli
import pytest

from emoflax.corpora import synthetic

pytestmark = pytest.mark.skipif(shutil.which("mpirun") is None, reason="not installed (openmpi-bin): mpirun")
FIELDS = (*cli.SMALL_CNN2, "--config.train.epochs=3")


def losses(folder):
    (path,) = folder.glob("*/seed0-fold1/metrics.jsonl")
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def test_mpirun_trains_what_one_process_with_as_many_devices_trains(tmp_path):
    synthetic.make(tmp_path / "voices", speakers=6, clips_per_emotion=1)
    command = cli.command(cli.config("cnn2"), *FIELDS, "--multihost", "--workdir=two")
    done = subprocess.run(
        ["mpirun", "-n", "2", "--allow-run-as-root", "--oversubscribe", *command], cwd=tmp_path, text=True,
        env=cli.ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert "2 processes with 2 devices" in done.stdout and done.stdout.count("| UAR |") == 1
    subprocess.run(
        cli.command(cli.config("cnn2"), *FIELDS, "--workdir=one"), cwd=tmp_path, check=True, capture_output=True,
        env=cli.ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "2"}, timeout=300,
    )  # fmt: skip
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
