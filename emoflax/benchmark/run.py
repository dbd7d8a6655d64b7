"""`--mode=benchmark`: times one config against PyTorch and plain librosa; prints a table, writes benchmark.json."""

import atexit
import functools
import json
import os
import pathlib
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import jax
import torch
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from emoflax.benchmark import (
    equality,
    flops,
    prediction,
    setup,
    storage,
    table,
    timing,
    torch_models,
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
    modes: Sequence[str] = torch_models.MODES,
) -> dict:
    """Measures, prints the table and writes <workdir>/benchmark-<config.name>/benchmark.json, which is returned.

    Args:
      budget_s: seconds for which train steps are timed; other parts get a share of them. A few rounds are always done,
        and compilation takes more time.
      clips: recordings that precompute is timed on.
      modes: PyTorch's ways to run, of `torch_models.MODES`.

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
        results["prediction"] = prediction.measure(start, running, budget_s / 4)
        begin_stage()
        with tempfile.TemporaryDirectory() as scratch:
            results["checkpoint"] = storage.checkpoint_times(start.state(), pathlib.Path(scratch) / "checkpoints")
            if config.model.audio:
                results["precompute"] = storage.precompute_times(config, clips, pathlib.Path(scratch))
        bar.update()
    results["peak_memory_mib"]["end"] = peak_memory_mib()
    (folder / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n")
    print(table.text(results))
    logging.info("benchmark.json: %s", folder)
    return results


def _next(bar: tqdm, stages: Iterator[tuple[int, str]]) -> None:
    bar.n, stage = next(stages)
    bar.set_description_str(stage)


def no_compilation_caches() -> None:
    """Compiles every program in this process, so that the times of compilation are those of a first run."""
    jax.config.update("jax_enable_compilation_cache", False)
    empty = tempfile.TemporaryDirectory()
    atexit.register(empty.cleanup)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty.name


def training(start: setup.Setup, budget_s: float, modes: Sequence[str], begin_stage: Callable[[], None]) -> dict:
    """Shapes, peak, memory and times of the train step."""
    batch_size, dtype = start.config.train.batch_size, start.config.train.dtype
    bucket = start.bucket(train_step.STEPS * batch_size, batch_size)
    rows = bucket.rows.arrays()
    shape = {name: list(rows[name].shape[1:]) for name in ("logmel", "tokens") if name in rows}
    frames, tokens = (shape.get(name, [0])[0] for name in ("logmel", "tokens"))
    gflop = flops.train_flops_per_clip(start.config, frames, tokens, setup.CLASSES) / 1e9
    begin_stage()
    ours = train_step.ours(start, bucket)
    for contestant in ours.values():
        contestant.turn()
    memory = {"after_our_steps": peak_memory_mib()}
    begin_stage()
    theirs, skipped = train_step.theirs(start, bucket, modes)
    for name, reason in skipped.items():
        logging.warning("PyTorch's %s is not measured: %s", name, reason)
    begin_stage()
    peak = timing.matmul_peak(dtype, setup.torch_device(), budget_s / 20)
    times = train_step.measure(ours | theirs, start, peak, gflop, budget_s)
    memory["after_torch_steps"] = peak_memory_mib()
    times |= {
        "ratio_to_torch": timing.ratios(times, "ours_epoch", modes),
        "ratio_to_torch_step_by_step": timing.ratios(times, "ours_step", modes),
        "compile_s": {name: contestant.compile_s for name, contestant in ours.items()}
        | {name: trainer.first_step_s for name, trainer in theirs.items()},
        "skipped": skipped,
    }
    return {
        "batch": {"size": batch_size, "dtype": dtype} | shape,
        "gflop_per_clip": gflop,
        "matmul_peak_gflop_per_s": peak / 1e9,
        "train_step": times,
        "peak_memory_mib": memory,
    }


def machine() -> dict:
    return {
        "device": ledger.machine(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "jax": jax.__version__,
        "torch": torch.__version__,
    }


def notice() -> str:
    if jax.default_backend() != "cpu" and setup.torch_device() == "cpu":
        return "this PyTorch was built without the accelerator that JAX uses: its times are a CPU's, not comparable"
    if os.getloadavg()[0] > 0.5:
        # GNU OpenMP's threads spin while they wait for one without a core: steps then take up to 50 times as long.
        advice = "repeat it on an idle machine, or with OMP_WAIT_POLICY=PASSIVE to spare PyTorch the worst of it"
        return f"other programs were running (load average {os.getloadavg()[0]:.1f}): {advice}"
    return ""


def peak_memory_mib() -> float:
    """Peak memory of the whole process so far: both sides and the code of both libraries."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
