"""Seconds of --mode=predict of one recording in a fresh process, and milliseconds of a call in a process.

    python -m emoflax.benchmark.latency runs/tiny-synthetic-speakers5/seed0-fold1

Of a network or of closed-form models alike. The recording has 3 s at 16 kHz; the others, 200 of them, 0.3 to 4 s. The
compile cache is warm, as after a first use.
Prints a table and writes latency.json into --workdir.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile

from emoflax.benchmark import many_files, script
from emoflax.inference.model import load

PROCESSES, CALLS, LENGTHS = 7, 200, 200


def fresh_processes(checkpoint: str, recording: pathlib.Path) -> list[float]:
    """Seconds of each, from its start to its end; one more goes before, to fill the compile cache."""
    flags = ["--mode=predict", f"--checkpoint={checkpoint}", f"--inputs={recording}"]
    times = []
    for _ in range(1 + PROCESSES):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "emoflax", *flags], check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return times[1:]


def calls(checkpoint: str, recordings: list[pathlib.Path], warm: int = 20) -> np.ndarray:
    """Milliseconds of `predict` of each file in its turn."""
    model = load(checkpoint)
    model.warm_up()
    times = []
    for path in recordings[:1] * warm + recordings:
        begin = time.perf_counter()
        model.predict(path)
        times.append(1e3 * (time.perf_counter() - begin))
    return np.array(times[warm:])


def measure(checkpoint: str, folder: pathlib.Path) -> dict:
    three = folder / "three.wav"
    t = np.arange(3 * many_files.RATE_HZ) / many_files.RATE_HZ
    soundfile.write(three, 0.2 * np.sin(2 * np.pi * 150 * t) * (1 + np.sin(2 * np.pi * 3 * t)), many_files.RATE_HZ)
    same = calls(checkpoint, [three] * CALLS)
    others = calls(checkpoint, many_files.make(folder, LENGTHS))
    processes = fresh_processes(checkpoint, three)
    return {
        "process_s": {"median": float(np.median(processes)), "least": min(processes), "most": max(processes)},
        "call_ms": {"median": float(np.median(same)), "least": float(same.min()), "p90": float(np.quantile(same, 0.9))},
        "lengths_ms": {"median": float(np.median(others)), "most": float(others.max())},
    }


def table(found: dict) -> str:
    process, call, lengths = found["process_s"], found["call_ms"], found["lengths_ms"]
    return "\n".join(
        [
            "| | median | least | most |",
            "|---|---|---|---|",
            f"| one recording in a fresh process, s | {process['median']:.2f} | {process['least']:.2f} | "
            f"{process['most']:.2f} |",
            f"| a call, 3 s at 16 kHz, ms (most: 9 of 10) | {call['median']:.2f} | {call['least']:.2f} | "
            f"{call['p90']:.2f} |",
            f"| a call, {LENGTHS} lengths, ms | {lengths['median']:.2f} | | {lengths['most']:.2f} |",
        ]
    )


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        found = measure(options.checkpoint, pathlib.Path(folder))
    script.write(options.workdir / "latency.json", {"checkpoint": options.checkpoint} | found, table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a bundle, a checkpoint or a run")
    script.run(main, parser)
