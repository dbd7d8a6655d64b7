"""`--mode=benchmark`: times one config against PyTorch and plain librosa; prints a table, writes benchmark.json."""

import functools
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import jax
import torch
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from emoflax.benchmark import (
    equality,
    memory,
    prediction,
    setup,
    storage,
    table,
    timing,
    torch_runs,
    train_step,
)
from emoflax.files import make_folder
from emoflax.parallel.workers import usable_cores
from emoflax.reporting import ledger

STAGES = (
    "comparing our model with its PyTorch twin",
    "compiling our train step",
    "compiling PyTorch's train step",
    "timing train steps",
    "timing prediction",
    "timing checkpoints and precompute",
)


def run(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    budget_s: float = 45.0,
    clips: int = 200,
    modes: Sequence[str] = torch_runs.MODES,
) -> dict:
    """Measures, prints the table and writes <workdir>/benchmark-<config.name>/benchmark.json, which is returned.

    Args:
      budget_s: seconds for which train steps are timed; other parts get a share of them. A few rounds are always done,
        and compilation takes more time.
      clips: recordings that precompute is timed on.
      modes: PyTorch's ways to run, of `torch_runs.MODES`.

    Raises:
      UserError: an encoder without a PyTorch twin; a folder that cannot be written.
      ArithmeticError: the two sides compute different numbers.
    """
    folder = workdir / f"benchmark-{config.name}"
    make_folder(folder)
    torch.set_num_threads(usable_cores())  # as many as XLA uses, whatever OMP_NUM_THREADS is
    results = {"config": config.name, "machine": machine(), "notice": notice()}
    with tqdm(total=len(STAGES), bar_format="benchmark {n}/{total} {elapsed} {desc}") as bar:
        begin_stage = functools.partial(_next, bar, enumerate(STAGES))
        begin_stage()
        results["relative_error"] = equality.check(config)
        start = setup.prepare(config)
        results |= training(start, budget_s, modes, begin_stage)
        begin_stage()
        running = [mode for mode in modes if mode not in results["train_step"]["skipped"]]
        sizes = {"one_clip": 1, "batch": config.train.batch_size, "large_batch": table.LARGE_BATCH}
        results["prediction"] = prediction.measure(start, sizes, running, budget_s / 4)
        begin_stage()
        with tempfile.TemporaryDirectory() as scratch:
            results["checkpoint"] = storage.checkpoint_times(start.state(), pathlib.Path(scratch) / "checkpoints")
            if config.model.audio:
                results["precompute"] = storage.precompute_times(config, clips, pathlib.Path(scratch))
        bar.update()
    results["peak_memory_mib"]["end"] = memory.peak_mib()
    (folder / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n")
    print(table.text(results))
    logging.info("benchmark.json: %s", folder)
    return results


def _next(bar: tqdm, stages: Iterator[tuple[int, str]]) -> None:
    bar.n, stage = next(stages)
    bar.set_description_str(stage)


def training(start: setup.Setup, budget_s: float, modes: Sequence[str], begin_stage: Callable[[], None]) -> dict:
    """Shapes, peak, memory and times of the train step."""
    batch_size, dtype = start.config.train.batch_size, start.config.train.dtype
    bucket = start.bucket(train_step.STEPS * batch_size, batch_size)
    begin_stage()
    ours = train_step.ours(start, bucket)
    for contestant in ours.values():
        contestant.turn()
    peaks = {"after_our_steps": memory.peak_mib()}
    begin_stage()
    theirs, skipped = torch_runs.trainers(start, bucket, modes)
    for name, reason in skipped.items():
        logging.warning("PyTorch's %s is not measured: %s", name, reason)
    begin_stage()
    product = torch_runs.product(dtype, timing.PEAK_SIZE, 1)
    rates = timing.matmul_rates(dtype, budget_s / 20, size=timing.PEAK_SIZE, times=1, theirs={"torch": product})
    peak = max(rates.values())
    contestants = ours | {f"torch_{mode}": trainer for mode, trainer in theirs.items()}
    found = train_step.measure(contestants, start, bucket, modes, peak, budget_s)
    peaks["after_torch_steps"] = memory.peak_mib()
    found["train_step"]["skipped"] = skipped
    return found | {"matmul_peak_gflop_per_s": peak / 1e9, "peak_memory_mib": peaks}


def machine() -> dict:
    return {
        "device": ledger.machine(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "jax": jax.__version__,
        "torch": torch.__version__,
    }


def notice() -> str:
    if jax.default_backend() != "cpu" and torch_runs.device() == "cpu":
        return "this PyTorch was built without the accelerator that JAX uses: its times are a CPU's, not comparable"
    if os.getloadavg()[0] > 0.5:
        # GNU OpenMP's threads spin while they wait for one without a core: steps then take up to 50 times as long.
        advice = "repeat it on an idle machine, or with OMP_WAIT_POLICY=PASSIVE to spare PyTorch the worst of it"
        return f"other programs were running (load average {os.getloadavg()[0]:.1f}): {advice}"
    return ""
