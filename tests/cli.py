"""Runs main.py as a user does, in a process of its own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
RAVDESS = ROOT.parent / "shared" / "ravdess"
# Nothing listens on port 9: downloads fail at once, on machines with and without a network.
ENVIRONMENT = os.environ | {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}


# A cnn2 that trains in seconds, in one bucket and in one folder with its corpus, `voices`.
SMALL_CNN2 = (
    "--config.data.corpus=synthetic", "--config.data.dir=voices", "--config.data.buckets=1", "--config.audio.mels=16",
    "--config.data.cache_dir=cache", "--config.model.cnn.channels=(4,8)", "--config.model.head=8",
    "--config.seeds=(0,)", "--config.split.fold=1",
)  # fmt: skip


def command(*flags) -> list[str]:
    """Without report.html, which takes seconds, unless the flags ask for it."""
    flags = [str(flag) for flag in flags]
    place = next((place for place, flag in enumerate(flags, start=1) if flag.startswith("--config=")), 0)
    if place and not any(flag.startswith("--config.report.") for flag in flags):
        flags.insert(place, "--config.report.html=False")
    return [sys.executable, str(ROOT / "main.py"), *flags]


def run(*flags, cwd, status: int = 0, timeout: float = 240) -> str:
    """What main.py printed; fails unless it exits with `status`, or if it printed a traceback."""
    done = subprocess.run(
        command(*flags), cwd=cwd, env=ENVIRONMENT, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == status, f"exit {done.returncode}\n{done.stdout[-4000:]}"
    assert "Traceback" not in done.stdout, done.stdout[-4000:]
    return done.stdout


def config(name: str) -> str:
    return f"--config={ROOT}/configs/{name}.py"
