"""--mode=predict of many files: its peak memory for few and for many, and whether a killed command goes on.

    python -m emoflax.benchmark.many_files runs/tiny-synthetic-speakers5/seed0-fold1 --files=2000

Makes short recordings, predicts 100 of them, then all; then all once more into another output, killed (SIGKILL) when
half of the records are there, and goes on with the same command. Prints a table and writes many_files.json into
--workdir.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile

from emoflax.benchmark import memory, script
from emoflax.errors import UserError

RATE_HZ, LONGEST_S, FEW = 16_000, 4.0, 100


def make(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Recordings of 0.3 to 4 s: a tone that comes and goes, with noise."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        t = np.arange(int(RATE_HZ * rng.uniform(0.3, LONGEST_S))) / RATE_HZ
        wave = 0.2 * np.sin(2 * np.pi * rng.uniform(90, 300) * t) * (1 + np.sin(2 * np.pi * 3 * t))
        paths.append(folder / f"{number:05d}.wav")
        soundfile.write(paths[-1], wave + 0.01 * rng.standard_normal(len(t)), RATE_HZ)
    return paths


def start(checkpoint: str, folder: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
    flags = ["--mode=predict", f"--checkpoint={checkpoint}", f"--inputs={folder}", f"--output={output}"]
    return subprocess.Popen(
        [sys.executable, "-m", "emoflax", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finish(process: subprocess.Popen) -> tuple[float, float]:
    """(Seconds from now on, peak of its resident memory in MiB); its decoding process counts for itself."""
    begin = time.perf_counter()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"--mode=predict ended with status {process.returncode}; try it by hand with the same model")
    return time.perf_counter() - begin, memory.peak_mib(used)


def kill_at(process: subprocess.Popen, output: pathlib.Path, records: int) -> int:
    """Kills it once its output holds so many records; how many it held."""
    while process.poll() is None:
        if output.exists() and (there := output.read_bytes().count(b"\n")) >= records:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return there
        time.sleep(0.02)
    raise UserError("the command was over before it could be killed; raise --files")


def measure(checkpoint: str, count: int, folder: pathlib.Path) -> dict:
    """Seconds and MiB for few and for all files, records at the kill, and whether both outputs are the same bytes."""
    few, every = folder / "few", folder / "all"
    for place, files in ((few, FEW), (every, count)):
        place.mkdir()
        make(place, files)
    found: dict = {"files": count, "few": FEW}
    finish(start(checkpoint, few, folder / "warm-up.jsonl"))  # fills the compile cache
    found["few_s"], found["few_mib"] = finish(start(checkpoint, few, folder / "few.jsonl"))
    whole, killed = folder / "whole.jsonl", folder / "killed.jsonl"
    found["all_s"], found["all_mib"] = finish(start(checkpoint, every, whole))
    found["records_at_kill"] = kill_at(start(checkpoint, every, killed), killed, count // 2)
    found["rest_s"], _ = finish(start(checkpoint, every, killed))
    return found | {"same_bytes": killed.read_bytes() == whole.read_bytes()}


def table(found: dict) -> str:
    lines = [
        "| files | seconds | peak memory, MiB |", "|---|---|---|",
        f"| {found['few']} | {found['few_s']:.1f} | {found['few_mib']:.0f} |",
        f"| {found['files']} | {found['all_s']:.1f} | {found['all_mib']:.0f} |",
        "",
        f"Killed at {found['records_at_kill']} records; the same command wrote the rest in {found['rest_s']:.1f} s: "
        + ("the same bytes as without a kill." if found["same_bytes"] else "NOT the same bytes as without a kill."),
    ]  # fmt: skip
    return "\n".join(lines)


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        found = measure(options.checkpoint, options.files, pathlib.Path(folder))
    script.write(options.workdir / "many_files.json", {"checkpoint": options.checkpoint} | found, table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a bundle, a checkpoint or a run")
    parser.add_argument("--files", type=int, default=2000, help="how many recordings are predicted")
    script.run(main, parser)
