"""Timing in alternation, so that other load on the machine slows every contestant alike."""

import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch

MIN_ROUNDS, MAX_ROUNDS = 3, 30
PEAK_SIZE = 2048


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


def matmul_peak(dtype: str, device: str, budget_s: float) -> float:
    """FLOP/s of a large square matrix product, by the faster of the two libraries."""
    ours = jnp.ones((PEAK_SIZE, PEAK_SIZE), dtype)
    theirs = torch.ones(PEAK_SIZE, PEAK_SIZE, dtype=getattr(torch, dtype), device=device)
    product = jax.jit(jnp.matmul)

    def torch_product():
        torch.matmul(theirs, theirs)
        if device == "cuda":
            torch.cuda.synchronize()

    turns = {"jax": lambda: product(ours, ours).block_until_ready(), "torch": torch_product}
    times = alternate(turns, 1, budget_s)
    return 2 * PEAK_SIZE**3 / (min(time["q1_ms"] for time in times.values()) / 1000)
