"""Logging costs a training process little."""

import subprocess
import sys

import cli

SCRIPT = """
import pathlib, sys
from emoflax.training.monitor import Monitor
monitor = Monitor(pathlib.Path(sys.argv[1]), "a run", 0, 1)
monitor.epoch({"epoch": 1, "loss": 1.0, "dev_uar": None, "clips_per_s": 1.0})
monitor.close()
print("torch" in sys.modules)
import torch
print(torch.ones(1).item())
"""


def test_logging_for_tensorboard_loads_no_pytorch_and_does_not_hide_it_from_others(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=cli.ROOT, check=True, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "1.0"]
    assert any((tmp_path / "tensorboard").iterdir())
