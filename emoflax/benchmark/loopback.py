"""Data parallelism by several processes on this machine, beside what the model of `communication` predicts.

    python -m emoflax.benchmark.loopback

Starts 1, 2 and 4 processes with one device each, which meet as those of --multihost do. Each process has one core;
more processes than cores share them. For each model, with the same clips a process, it measures the ms (the least of
several turns) of
  - a step alone: every process trains for itself, all at the same time, so that cores are shared but nothing is sent;
  - an all-reduce of the same arrays as the gradient, alone;
  - a step together, and one of an epoch of rows in memory, which also gathers its batches from all processes.
The model gets its bandwidth and latency from all-reduces of one large and one small array by two processes. Prints a
table and writes loopback.json into --workdir.
"""

import argparse
import dataclasses
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from emoflax.benchmark import script, setup, shapes, train_step
from emoflax.benchmark.communication import Link, load_of
from emoflax.benchmark.markdown_table import Table, number, section
from emoflax.data.dataset import Bucket
from emoflax.errors import UserError
from emoflax.parallel import mesh as devices
from emoflax.parallel import multihost, peers, workers
from emoflax.training import epoch

MODELS = {"cnn2": 16, "whisper_tiny": 2}  # name -> clips of one process's step
STEPS, ROUNDS, REDUCTIONS = 4, 7, 10
SMALL_BYTES, LARGE_BYTES = 1 << 10, 1 << 25
WAIT_S = 1800
_meetings = itertools.count()


def meet() -> None:
    """Waits for all processes, which compile at their own pace: a collective operation waits for half a minute only."""
    if jax.process_count() > 1:
        multihost.wait_for_all_processes(f"loopback-{next(_meetings)}", WAIT_S)


def rounds_ms(turn: Callable[[], object], calls: int) -> float:
    """ms of a call, the least of some turns, which company on the cores disturbs least; a mean over the processes."""
    meet()
    turn()
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        turn()
        seconds.append((time.perf_counter() - begin) / calls)
    meet()
    return float(multihost.total(np.array([1000 * min(seconds)]))[0]) / jax.process_count()


def all_reduce_ms(tree: Any, everywhere: Mesh) -> float:
    """Of arrays of those shapes, each added up over all processes, as the gradients of a step are."""

    def reduce(leaves: list[jax.Array]) -> list[jax.Array]:
        return [jax.lax.psum(leaf, devices.AXIS) for leaf in leaves]

    same = PartitionSpec()
    arrays = devices.replicate([jnp.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)], everywhere)
    everyone = jax.shard_map(reduce, mesh=everywhere, in_specs=same, out_specs=same, check_vma=False)
    program = jax.jit(everyone).lower(arrays).compile()

    def turn() -> None:
        for _ in range(REDUCTIONS):
            jax.block_until_ready(program(arrays))

    return rounds_ms(turn, REDUCTIONS)


def measured(model: str, clips: int) -> dict[str, Any]:
    """What the processes measure of a model; the same in all of them."""
    config = shapes.config_of(model)
    config.train.batch_size = clips
    alone = dataclasses.replace(setup.prepare(config), mesh=None)
    found: dict[str, Any] = {"alone_ms": _step_ms(alone, clips)}
    if jax.process_count() == 1:
        return found
    config.train.batch_size = clips * jax.process_count()
    start = setup.prepare(config)
    bucket = start.bucket(STEPS * config.train.batch_size, config.train.batch_size)
    meet()
    step = train_step.OurStep(start, bucket)
    return found | {
        "all_reduce_ms": all_reduce_ms(start.state().params, start.mesh),
        "collectives": len(re.findall(r" all-reduce(?:-start)?\(", step.program.as_text())),
        "together_ms": rounds_ms(step.turn, STEPS),
        "epoch_ms": rounds_ms(_epoch(start, bucket), STEPS),
    }


def _step_ms(start: setup.Setup, clips: int) -> float:
    return rounds_ms(train_step.OurStep(start, start.bucket(STEPS * clips, clips)).turn, STEPS)


def _epoch(start: setup.Setup, bucket: Bucket) -> Callable[[], None]:
    """A turn of `epoch.train_epoch`, compiled before the processes meet."""
    state = [start.state()]

    def arguments() -> tuple:
        return state[0], (bucket.rows,), epoch.plan_of((bucket,), state[0].seed, state[0].step)

    shape = start.train_config.step, (bucket.batch_size,), start.mesh
    program = epoch.train_steps.lower(*shape, *arguments()).compile()

    def turn() -> None:
        state[0], _ = program(*arguments())
        jax.block_until_ready(state)

    return turn


def work(options: argparse.Namespace) -> None:
    """One of the processes; the first prints what was measured."""
    cores = workers.usable_cores()
    workers.keep_to_cores(options.process % cores, cores)
    if options.count > 1:
        multihost.connect(True, "train", f"127.0.0.1:{options.port}", options.count, options.process, 120)
    found: dict[str, Any] = {"models": {model: measured(model, clips) for model, clips in options.models.items()}}
    if everywhere := devices.all_devices():
        found["link_ms"] = {
            str(nbytes): all_reduce_ms(jax.ShapeDtypeStruct((nbytes // 4,), jnp.float32), everywhere)
            for nbytes in (SMALL_BYTES, LARGE_BYTES)
        }
    if options.process == 0:
        print(json.dumps(found), flush=True)
    peers.leave()


def together(count: int, models: Mapping[str, int]) -> dict[str, Any]:
    """Starts so many processes and returns what they measured.

    Raises:
      UserError: one of them failed, or they took too long.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "emoflax.benchmark.loopback", f"--count={count}", f"--port={port}",
               f"--models={json.dumps(models)}"]  # fmt: skip
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([*command, f"--process={process}"], env=environment, **pipes) for process in range(count)
    ]
    try:
        printed = [process.communicate(timeout=WAIT_S) for process in processes]
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{count} processes were not done after {WAIT_S} s; choose fewer --counts") from error
    finally:
        for process in processes:
            process.kill()
    for process, (_, complaint) in zip(processes, printed, strict=True):
        if process.returncode:
            raise UserError(f"one of {count} processes failed: {_reason(complaint)}")
    return json.loads(printed[0][0].splitlines()[-1])


def _reason(complaint: str) -> str:
    """The line of a process's standard error that names its exception, or the last one."""
    lines = complaint.strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if re.match(r"[\w.]*(?:Error|error)\b.*: ", line)), lines[-1])


def link_of(found: Mapping[str, float]) -> Link:
    """Bandwidth and latency from two all-reduces by two processes, in ms by their bytes."""
    latency_s = found[str(SMALL_BYTES)] / 1000 / 2
    sent = 2 * (2 - 1) / 2 * LARGE_BYTES
    return Link(sent / (found[str(LARGE_BYTES)] / 1000 - 2 * latency_s), latency_s, "measured on loopback")


def table(counts: Mapping[str, Mapping[str, Any]], link: Link, sent: Mapping[str, int]) -> Table:
    """Args: measurements by number of processes; the bytes of each model's gradient."""
    rows = []
    for model, nbytes in sent.items():
        for count, found in counts.items():
            own = found["models"][model]
            if "together_ms" not in own:
                rows.append([f"`{model}`", count, number(own["alone_ms"]), *["–"] * 5, number(1000 / own["alone_ms"])])
                continue
            many = dataclasses.replace(link, latency_s=link.latency_s * own["collectives"])
            predicted = 1000 * many.all_reduce_s(nbytes, int(count))
            rows.append([
                f"`{model}`", count, number(own["alone_ms"]), number(own["all_reduce_ms"]), number(predicted),
                number(own["together_ms"]), number(own["alone_ms"] + predicted), number(own["epoch_ms"]),
                number(1000 / own["together_ms"]),
            ])  # fmt: skip
    head = ("model", "processes", "step alone, ms", "all-reduce, ms", "predicted", "step together, ms", "predicted",
            "in an epoch, ms", "steps/s")  # fmt: skip
    note = (
        f"Loopback: {number(link.bytes_per_s / 1e9)} GB/s and {number(link.latency_s * 1e6)} µs, from two processes; a "
        "latency for each collective operation of the step."
    )
    return Table("Processes on loopback", head, rows, [note])


def main(options: argparse.Namespace) -> None:
    if options.process is not None:
        work(options)
        return
    if 2 not in options.counts:
        raise UserError("--counts must hold 2: two processes give the bandwidth and latency of the prediction")
    counts: dict[str, Any] = {}
    for count in options.counts:
        counts[str(count)] = together(count, options.models)
        print(f"{count} processes are measured", flush=True)
    sent = {model: load_of(shapes.config_of(model)).gradient_bytes for model in options.models}
    link = link_of(counts["2"]["link_ms"])
    found = {"counts": counts, "gradient_bytes": sent, "bytes_per_s": link.bytes_per_s, "latency_s": link.latency_s}
    script.write(options.workdir / "loopback.json", found, section(table(counts, link, sent)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4], help="of processes")
    parser.add_argument("--models", type=json.loads, default=MODELS, help="JSON: name -> clips of a process's step")
    for name in ("--count", "--process", "--port"):  # of a process that this command starts
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    script.run(main, parser)
