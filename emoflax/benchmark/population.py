"""A population's epoch against the same models' epochs one after the other: the gain of config.train.population.

python -m emoflax.benchmark.population configs/cnn2.py 4
"""

import dataclasses
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from emoflax.benchmark import script, setup, timing
from emoflax.benchmark.train_step import STEPS
from emoflax.experiment import population
from emoflax.reporting import ledger
from emoflax.training.epoch import train_epoch


def measure(
    config: ConfigDict, members: int, budget_s: float = 30.0, steps: int = STEPS
) -> dict[str, dict[str, float]]:
    """Seconds of wall clock and of processor per member and step: 'alone' and 'together'; `steps`: of one turn."""
    start = setup.prepare(config)
    bucket = start.bucket(steps * config.train.batch_size, config.train.batch_size)
    first = start.state()
    lone = [jax.tree.map(jnp.copy, first) for _ in range(members)]
    # A population shards its members over the devices, not their batches.
    whole = dataclasses.replace(start, mesh=None)
    rows = whole.bucket(steps * config.train.batch_size, config.train.batch_size)
    joined = jax.device_put((rows.rows,), population.sharding(members, None))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * members), whole.state())
    stacked = [jax.device_put(states, population.sharding(members, "member"))]
    place, processor = np.zeros(members, np.int32), {"alone": [], "together": []}

    def alone() -> None:
        for number in range(members):
            lone[number], _ = train_epoch(start.train_config, lone[number], (bucket,))
        jax.block_until_ready(lone)

    def together() -> None:
        plan = population.plan_of_members((rows,), stacked[0], place)
        stacked[0], _ = population.train_epoch(start.train_config.step, (rows.batch_size,), stacked[0], joined, plan)
        jax.block_until_ready(stacked[0])

    def timed(name: str, turn) -> None:
        begin = time.process_time()
        turn()
        processor[name].append((time.process_time() - begin) / (members * steps))

    turns = {name: functools.partial(timed, name, turn) for name, turn in (("alone", alone), ("together", together))}
    found = timing.alternate(turns, members * steps, budget_s)
    return {name: times | {"processor_ms": 1000 * float(np.median(processor[name]))} for name, times in found.items()}


def main(path: str, members: str) -> None:
    config = script.load_config(path)
    found = measure(config, int(members))
    print(f"{config.name}, {members} members, batch {config.train.batch_size}, {ledger.machine()}")
    for name, times in found.items():
        print(f"{name:9} {times['median_ms']:8.2f} ms per member and step ({times['processor_ms']:.2f} of processor)")
    print(f"together is {found['alone']['median_ms'] / found['together']['median_ms']:.2f} times as fast")


if __name__ == "__main__":
    main(*sys.argv[1:])
