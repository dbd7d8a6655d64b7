"""Times of EmoFlax's train step and of PyTorch's, in alternation."""

import time
from collections.abc import Sequence

import jax

from emoflax.batch import Batch
from emoflax.benchmark import flops, timing
from emoflax.benchmark.setup import Setup, first_batch
from emoflax.data.dataset import Bucket
from emoflax.parallel import mesh as devices
from emoflax.training.epoch import Metrics, train_epoch
from emoflax.training.step import TrainState, train_step

STEPS = 8  # of one turn on a processor, and of the epoch that is compiled as one program


class OurEpoch:
    """`epoch.train_epoch` as training runs it, choosing and gathering its batches included."""

    def __init__(self, start: Setup, bucket: Bucket):
        self.train_config, self.buckets, self.state = start.train_config, (bucket,), start.state()
        self.memory_mib = None  # that of `OurStep`, and the rows
        begin = time.perf_counter()
        self.turn()
        self.first_step_s = time.perf_counter() - begin

    def turn(self) -> None:
        self.state, _ = train_epoch(self.train_config, self.state, self.buckets)
        jax.block_until_ready(self.state)


class OurStep:
    """`train.train_step` dispatched one by one, on one batch."""

    def __init__(self, start: Setup, bucket: Bucket):
        self.batch = jax.jit(devices.constrain_sharded, static_argnums=1)(first_batch(bucket), start.mesh)
        self.state, self.steps = start.state(), bucket.steps

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            made = train_step(start.train_config.step, state, devices.constrain_sharded(batch, start.mesh))
            return devices.constrain_replicated(made, start.mesh)

        begin = time.perf_counter()
        with devices.at_work(start.mesh):
            self.program = jax.jit(step, donate_argnums=0).lower(self.state, self.batch).compile()
        self.first_step_s = time.perf_counter() - begin
        self.memory_mib = memory_mib(self.program)

    def turn(self) -> None:
        for _ in range(self.steps):
            self.state, _ = self.program(self.state, self.batch)
        jax.block_until_ready(self.state)


def memory_mib(program: jax.stages.Compiled) -> float | None:
    """Arguments, results and temporary arrays of a compiled program on one device; None where XLA does not tell."""
    sizes = program.memory_analysis()
    if sizes is None:
        return None
    shared = sizes.alias_size_in_bytes  # results that take the place of donated arguments
    taken = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - shared
    return taken / 2**20


def ours(start: Setup, bucket: Bucket) -> dict[str, OurEpoch | OurStep]:
    """Contestants after their compilation; a turn of each is as many steps as the bucket has."""
    return {"ours_epoch": OurEpoch(start, bucket), "ours_step": OurStep(start, bucket)}


def measure(
    contestants: dict, start: Setup, bucket: Bucket, modes: Sequence[str], peak_flops: float, budget_s: float
) -> dict:
    """Times of one step, in ms, clips per second, arithmetic per second and as a share of the peak.

    Args:
      contestants: `ours` and those of `torch_runs.trainers` as torch_<mode>.
      modes: of PyTorch, that are compared with ours.
    """
    turns = {name: contestant.turn for name, contestant in contestants.items()}
    times = timing.alternate(turns, bucket.steps, budget_s)
    gflop_per_clip = flops.train_flops_per_clip(start, bucket) / 1e9
    for time_of in times.values():
        time_of["clips_per_s"] = bucket.batch_size / (time_of["median_ms"] / 1000)
        time_of["gflop_per_s"] = time_of["clips_per_s"] * gflop_per_clip
        time_of["peak_share"] = time_of["gflop_per_s"] * 1e9 / peak_flops
    return {
        "batch": {"size": bucket.batch_size, "dtype": start.config.train.dtype} | shapes(bucket),
        "gflop_per_clip": gflop_per_clip,
        "train_step": times
        | {
            "ratio_to_torch": timing.ratios(times, "ours_epoch", modes),
            "ratio_to_torch_step_by_step": timing.ratios(times, "ours_step", modes),
            "compile_s": {name: contestant.first_step_s for name, contestant in contestants.items()},
            "memory_mib": {name: contestant.memory_mib for name, contestant in contestants.items()},
        },
    }


def shapes(bucket: Bucket) -> dict[str, list[int]]:
    """Of one padded row, by field of the batch."""
    rows = bucket.rows.arrays()
    return {name: list(rows[name].shape[1:]) for name in ("logmel", "tokens") if name in rows}
