"""The loop: epoch after epoch, until all are done."""

import itertools
import time
from collections.abc import Callable

import jax
import numpy as np

from emoflax.data import stream
from emoflax.data.dataset import Dataset
from emoflax.errors import DivergedError
from emoflax.training.epoch import Span, run_spans
from emoflax.training.monitor import Profile
from emoflax.training.step import TrainConfig, TrainState


def fit(
    config: TrainConfig,
    state: TrainState,
    train: Dataset,
    *,
    epochs: int,
    after_epoch: Callable[[int, TrainState, dict], None],
    profile: Profile | None = None,
) -> TrainState:
    """Trains from the state's own epoch to `epochs`; `after_epoch(epoch, state, numbers)` evaluates, saves and logs.

    Raises:
      DivergedError: a loss or gradient is not finite; the checkpoints written before are untouched.
    """
    done = int(state.step) // train.steps
    for epoch in range(done + 1, epochs + 1):
        begin = time.perf_counter()
        state, metrics = run_epoch(config, state, train, epoch - 1, profile or Profile())
        seconds = time.perf_counter() - begin
        check_finite(metrics, first_step=(epoch - 1) * train.steps)
        after_epoch(epoch, state, numbers_of(epoch, metrics, len(train.clips), seconds))
    return state


def run_epoch(
    config: TrainConfig, state: TrainState, train: Dataset, epoch: int, profile: Profile
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Epoch number `epoch`, from 0 on, in one dispatch unless it is streamed or profiled; metrics [steps]."""
    first, parts = epoch * train.steps, []
    spans = spans_of(train, [step - first for step in profile.steps])
    profile.at(first, state)
    runs = run_spans(config, state, train, epoch, spans)
    for (_, end), (after, metrics) in zip(spans, runs, strict=True):
        state = after
        jax.block_until_ready(parts[-1:])  # one waits on the device while one runs, and no more pile up in memory
        parts.append(metrics)
        profile.at(first + end, state)
    parts = jax.device_get(parts)
    return state, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def spans_of(train: Dataset, edges: list[int]) -> list[Span]:
    """An epoch's steps divided at `edges`, and so that a chunk of streamed batches fits into memory."""
    inside = {0, train.steps, *(edge for edge in edges if 0 < edge < train.steps)}
    if train.streamed:
        inside |= set(range(0, train.steps, stream.steps_of_a_chunk(train.buckets)))
    return list(itertools.pairwise(sorted(inside)))


def numbers_of(epoch: int, metrics: dict[str, np.ndarray], clips: int, seconds: float) -> dict[str, float]:
    """What an epoch is logged with; `metrics`: [steps]."""
    return {
        "epoch": epoch,
        "step": epoch * len(metrics["loss"]),
        "loss": float(metrics["loss"].mean()),
        "grad_norm": float(metrics["grad_norm"].mean()),
        "clips_per_s": clips / seconds,
        "seconds": seconds,
    }


def check_finite(metrics: dict[str, np.ndarray], first_step: int) -> None:
    """Raises DivergedError that names the first step and the metric that is NaN or infinite."""
    names = ("loss", "grad_norm")  # cause before effect
    bad = ~np.isfinite([metrics[name] for name in names])
    if bad.any():
        step = int(bad.any(0).argmax())
        name = names[int(bad[:, step].argmax())]
        raise DivergedError(
            f"{name} is {metrics[name][step]} at step {first_step + step}; training stopped, the last checkpoint is "
            "kept. Lower config.optimizer.learning_rate, set config.optimizer.clip_norm, or use float32"
        )
