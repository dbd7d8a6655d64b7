"""`--mode=benchmark`: measures one config against PyTorch and plain librosa; a table and benchmark.json."""

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
      budget_s: how long train steps are timed; the other parts take a share of it. Few rounds are always done, and
        compilation comes on top.
      clips: recordings that precompute is timed on.
      modes: PyTorch's ways to run, of `torch_models.MODES`.

    Raises:
      UserError: an encoder without a PyTorch twin; a folder that cannot be written.
      ArithmeticError: both sides do not compute the same.
    """
    folder = workdir / f"benchmark-{config.name}"
    make_folder(folder)
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # what XLA takes, whatever OMP_NUM_THREADS says
    found = {"config": config.name, "machine": machine(), "notice": notice()}
    with tqdm(total=len(STAGES), bar_format="benchmark {n}/{total} {elapsed} {desc}") as bar:
        say = functools.partial(_next, bar, enumerate(STAGES))
        say()
        found["relative_error"] = equality.check(config)
        start = setup.prepare(config)
        found |= training(start, budget_s, modes, say)
        say()
        running = [mode for mode in modes if mode not in found["train_step"]["skipped"]]
        found["prediction"] = prediction.measure(start, running, budget_s / 4)
        say()
        with tempfile.TemporaryDirectory() as scratch:
            found["checkpoint"] = storage.checkpoint_times(start.state(), pathlib.Path(scratch) / "checkpoints")
            if config.model.audio:
                found["precompute"] = storage.precompute_times(config, clips, pathlib.Path(scratch))
        bar.update()
    found["peak_memory_mib"]["end"] = peak_memory_mib()
    (folder / "benchmark.json").write_text(json.dumps(found, indent=2) + "\n")
    print(table.text(found))
    logging.info("benchmark.json: %s", folder)
    return found


def _next(bar: tqdm, stages: Iterator[tuple[int, str]]) -> None:
    bar.n, stage = next(stages)
    bar.set_description_str(stage)


def no_compilation_caches() -> None:
    """Programs are compiled anew in this process, so that the times of compilation are those of a first run."""
    jax.config.update("jax_enable_compilation_cache", False)
    empty = tempfile.TemporaryDirectory()
    atexit.register(empty.cleanup)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty.name


def training(start: setup.Setup, budget_s: float, modes: Sequence[str], say: Callable[[], None]) -> dict:
    """Shapes, peak, memory and times of the train step."""
    batch_size, dtype = start.config.train.batch_size, start.config.train.dtype
    bucket = start.bucket(train_step.STEPS * batch_size, batch_size)
    shape = {name: list(bucket.rows[name].shape[1:]) for name in ("logmel", "tokens") if name in bucket.rows}
    frames, tokens = (shape.get(name, [0])[0] for name in ("logmel", "tokens"))
    gflop = flops.train_flops_per_clip(start.config, frames, tokens, setup.CLASSES) / 1e9
    say()
    ours = train_step.ours(start, bucket)
    for contestant in ours.values():
        contestant.turn()
    memory = {"after_our_steps": peak_memory_mib()}
    say()
    theirs, skipped = train_step.theirs(start, bucket, modes)
    for name, reason in skipped.items():
        logging.warning("PyTorch's %s is not measured: %s", name, reason)
    say()
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
        # GNU OpenMP's threads spin while they wait for one that got no core: steps then take up to 50 times as long.
        advice = "repeat it on an idle machine, or with OMP_WAIT_POLICY=PASSIVE to spare PyTorch the worst of it"
        return f"other programs were running (load average {os.getloadavg()[0]:.1f}): {advice}"
    return ""


def peak_memory_mib() -> float:
    """The most that the whole process ever had in memory, our side, PyTorch's and both libraries' code together."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
