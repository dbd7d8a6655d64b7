"""Timing in alternation, so that other load on the machine slows every contestant alike."""

import atexit
import os
import tempfile
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

MIN_ROUNDS, MAX_ROUNDS = 3, 30
PAUSE_S = 0.02  # before a turn: threads of the one before, which wait for more work in a loop, have gone to sleep
PEAK_SIZE = 2048  # rows of the matrices whose product is a processor's peak


def alternate(turns: Mapping[str, Callable[[], object]], calls: int, budget_s: float) -> dict[str, dict[str, float]]:
    """Times contestants that take turns, in rounds, until the budget is spent.

    Args:
      turns: name -> function that does `calls` calls and returns when they are done.

    Returns:
      name -> `spread` of the seconds per call.
    """
    for turn in turns.values():  # untimed: fills caches, starts thread pools and allocators
        turn()
    seconds = {name: [] for name in turns}
    begin = time.perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() - begin > budget_s:
            break
        for name, turn in turns.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            turn()
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: spread(values) for name, values in seconds.items()}


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds, and how many values they come from."""
    low, median, high = np.percentile(seconds, [25, 50, 75]) * 1000
    return {"median_ms": float(median), "q1_ms": float(low), "q3_ms": float(high), "turns": len(seconds)}


def ratios(times: Mapping[str, Mapping[str, float]], ours: str, modes) -> dict[str, float | None]:
    """PyTorch's median / ours, by mode; None for a mode that did not run. Above 1, ours is faster."""
    return {
        mode: times[f"torch_{mode}"]["median_ms"] / times[ours]["median_ms"] if f"torch_{mode}" in times else None
        for mode in modes
    }


def matmul_rates(
    dtype: str, budget_s: float, *, size: int, times: int, theirs: Mapping[str, Callable[[], object]]
) -> dict[str, float]:
    """FLOP/s of products of large square matrices by each library.

    Args:
      size: of a matrix, in rows.
      times: products of one turn, which are dispatched together.
      theirs: other libraries' turns of as many such products, by name.
    """
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)

    def turn() -> None:
        jax.block_until_ready([product(matrix, matrix) for _ in range(times)])

    found = alternate({"jax": turn, **theirs}, times, budget_s)
    return {name: 2 * size**3 / (time["q1_ms"] / 1000) for name, time in found.items()}


def no_compilation_caches() -> None:
    """Compiles every program in this process, so that the times of compilation are those of a first run."""
    jax.config.update("jax_enable_compilation_cache", False)
    empty = tempfile.TemporaryDirectory()
    atexit.register(empty.cleanup)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty.name
