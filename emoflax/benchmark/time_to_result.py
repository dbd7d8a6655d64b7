"""Seconds from raw recordings to a validation accuracy, all work included: ours, and a usual PyTorch pipeline.

    python -m emoflax.benchmark.time_to_result --data_dir=data/ravdess

Each side is a process of its own, one after the other, with the same training and validation clips of a random split.
The time runs from the process's start, through imports, features and compilation (ours begins with empty caches), to
the moment when an epoch's accuracy is on disk. Prints a table and writes time_to_result.json into --workdir.
"""

import argparse
import csv
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from emoflax import corpora
from emoflax.benchmark import script
from emoflax.data import splits
from emoflax.data.clip import Corpus
from emoflax.data.splits import Split
from emoflax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
PROTOCOL, FOLD, DEV_SHARE = "random_split", 1, 0.15
# Differences from configs/cnn2.py: one bucket, which compiles one program instead of three, and a short training.
FIELDS = {
    "data.buckets": 1, "train.batch_size": 8, "train.epochs": 12, "train.select": "accuracy",
    "optimizer.learning_rate": 1e-3, "optimizer.warmup_epochs": 0.5,
}  # fmt: skip
SIDES = ("ours", "usual")
METRICS = ("metrics.jsonl", "runs/*/*/metrics.jsonl")  # of the usual pipeline and of ours, in each side's folder
POLL_S = 0.05


@dataclasses.dataclass(frozen=True)
class Run:
    """Validation accuracies of a process's epochs, and when each was on disk, in seconds from the process's start."""

    accuracies: list[float]
    seconds: list[float]

    def seconds_to(self, target: float) -> float | None:
        return next((s for s, accuracy in zip(self.seconds, self.accuracies, strict=True) if accuracy >= target), None)


def split_of(corpus: Corpus) -> Split:
    """The split that main.py makes of the same fields; neither side uses its test clips."""
    return splits.make_split(corpus, PROTOCOL, FOLD, DEV_SHARE, {})


def write_table(path: pathlib.Path, corpus: Corpus) -> None:
    """The training and validation clips, as the usual pipeline reads them."""
    split = split_of(corpus)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "part"])
        for part, positions in (("train", split.train), ("dev", split.dev)):
            table.writerows([corpus.clips[i].path, corpus.clips[i].label, part] for i in positions)


def our_command(corpus: str, data_dir: str, folder: pathlib.Path, seed: int) -> list[str]:
    """Command line of main.py; `data_dir` is an absolute path."""
    fields = {
        "data.corpus": corpus, "data.dir": data_dir, "data.cache_dir": folder / "cache",
        "split.protocol": PROTOCOL, "split.fold": FOLD, "split.dev_share": DEV_SHARE, "seeds": f"({seed},)",
    } | FIELDS  # fmt: skip
    given = [f"--config.{field}={value}" for field, value in fields.items()]
    return [sys.executable, "main.py", "--config=configs/cnn2.py", f"--workdir={folder / 'runs'}", *given]


def their_command(folder: pathlib.Path, seed: int) -> list[str]:
    files = [str(folder / "clips.csv"), str(folder / "metrics.jsonl")]
    return [sys.executable, "-m", "emoflax.benchmark.usual_pipeline", *files, str(seed)]


def watch(command: list[str], folder: pathlib.Path, target: float, limit_s: float) -> Run:
    """Runs the command until the target is in a metrics.jsonl of METRICS, the process has ended, or time is up.

    Raises:
      UserError: the process failed.
    """
    empty = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    run, log, ended = Run([], []), folder / "log.txt", False
    with log.open("w") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=empty, stdout=output, stderr=output)
        try:
            while max(run.accuracies, default=0.0) < target and time.perf_counter() - begin < limit_s:
                ended = process.poll() is not None
                _read_new(run, folder, begin)
                if ended:
                    break
                time.sleep(POLL_S)
        finally:
            process.terminate()  # no error if it has ended
            process.wait()
    if ended and process.returncode:
        raise UserError(f"{command[1:3]} ended with status {process.returncode}:\n{log.read_text()[-2000:]}")
    return run


def _read_new(run: Run, folder: pathlib.Path, begin: float) -> None:
    """Adds the epochs that were written since the last call."""
    for path in itertools.chain.from_iterable(folder.glob(pattern) for pattern in METRICS):
        whole = path.read_text().split("\n")[:-1]  # the last line may still be incomplete
        for line in whole[len(run.accuracies) :]:
            run.accuracies.append(json.loads(line)["dev_accuracy"])
            run.seconds.append(time.perf_counter() - begin)


def measure(
    name: str, data_dir: str, seed: int, targets: list[float], limit_s: float, sides: list[str]
) -> dict[str, Run]:
    """A run of each of `sides`, of SIDES, one after the other."""
    runs, data_dir = {}, os.path.abspath(data_dir) if data_dir else ""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = corpora.load(name, data_dir, scratch)
        for clip in corpus.clips:
            pathlib.Path(clip.path).read_bytes()  # into the page cache, so that neither side waits for the disk
        for side in sides:
            folder = pathlib.Path(scratch) / side
            folder.mkdir()
            write_table(folder / "clips.csv", corpus)
            command = our_command(name, data_dir, folder, seed) if side == "ours" else their_command(folder, seed)
            print(f"seed {seed}, {side}: {' '.join(command[1:])}", flush=True)
            runs[side] = watch(command, folder, max(targets), limit_s)
    return runs


def table(runs: dict[int, dict[str, Run]], targets: list[float]) -> str:
    """Markdown, a line per seed and target."""
    lines = ["| seed | accuracy | ours, s | usual PyTorch pipeline, s | ratio |", "|---|---|---|---|---|"]
    for seed, sides in runs.items():
        for target in targets:
            seconds = {side: run.seconds_to(target) for side, run in sides.items()}
            ours, usual = (seconds.get(side) for side in SIDES)
            ratio = f"{usual / ours:.1f}" if ours and usual else "-"
            shown = [_shown(sides.get(side), seconds.get(side)) for side in SIDES]
            lines.append(f"| {seed} | {100 * target:.0f} % | {shown[0]} | {shown[1]} | {ratio} |")
    return "\n".join(lines)


def _shown(run: Run | None, seconds: float | None) -> str:
    if run is None:
        return "not run"
    if seconds is not None:
        return f"{seconds:.1f}"
    best = max(run.accuracies, default=0.0)
    last = run.seconds[-1] if run.seconds else 0.0
    return f"not in {len(run.accuracies)} epochs, {last:.0f} s (best {100 * best:.0f} %)"


def main(options: argparse.Namespace) -> None:
    targets = sorted(options.targets)
    runs = {
        seed: measure(options.corpus, options.data_dir, seed, targets, options.limit_s, options.sides)
        for seed in options.seeds
    }
    results = {
        "split": {"protocol": PROTOCOL, "fold": FOLD, "dev_share": DEV_SHARE}, "fields": FIELDS, "targets": targets,
        "runs": {seed: {side: dataclasses.asdict(run) for side, run in sides.items()} for seed, sides in runs.items()},
    }  # fmt: skip
    script.write(options.workdir / "time_to_result.json", results, table(runs, targets))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="ravdess", help="as config.data.corpus")
    parser.add_argument("--data_dir", default="", help="as config.data.dir")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.41, 0.60], help="validation accuracies")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run of each side per seed")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--limit_s", type=float, default=900.0, help="when a run is given up")
    script.run(main, parser)
