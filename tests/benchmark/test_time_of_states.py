"""States are timed beside openai-whisper only where both are the same numbers."""

import json
import os
import subprocess
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's spinning threads would take cores from other tests

import numpy as np
import pytest
import tiny_whisper

from emoflax.benchmark import states
from emoflax.errors import UserError


def test_the_benchmark_of_states_writes_the_seconds_of_every_way(tmp_path):
    weights = tiny_whisper.write(tmp_path / "tiny.pt", weight_scale=0.3)
    command = [sys.executable, "-m", "emoflax.benchmark.states", f"--weights={weights}", "--clips=2"]
    done = subprocess.run([*command, f"--workdir={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "benchmark-states.json").read_text())
    assert len(results["seconds"]) == 3 and all(s > 0 for each in results["seconds"].values() for s in each)
    assert "1440 clips" in done.stdout


def test_states_that_are_not_openai_whisper_s_are_not_timed(tmp_path):
    clips = states.waves(2)
    ours = states.ours(str(tiny_whisper.write(tmp_path / "one.pt", weight_scale=0.3)), 30.0, 1)(clips)
    theirs = states.theirs(str(tiny_whisper.write(tmp_path / "two.pt", seed=1, weight_scale=0.3)), 1)(clips)
    with pytest.raises(UserError, match="nothing was timed"):
        states.check_equal(ours, theirs, clips)
    assert np.isfinite(ours).all()
