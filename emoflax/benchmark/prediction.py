"""From features in memory to probabilities in memory, ours and PyTorch's: latency of a clip, throughput of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
import torch

from emoflax.batch import Batch
from emoflax.benchmark import timing
from emoflax.benchmark.setup import Setup, torch_device
from emoflax.benchmark.table import LARGE_BATCH
from emoflax.benchmark.train_step import autocast, not_runnable
from emoflax.parallel import mesh
from emoflax.training import scoring
from emoflax.training.step import apply

CALLS = {"one_clip": 20, "batch": 4, "large_batch": 1}  # of one turn


def measure(start: Setup, modes: Sequence[str], budget_s: float) -> dict:
    """Times of 'one_clip', 'batch' and 'large_batch', each with `ratio_to_torch` by mode, ours the compiled model.

    'ours_api' is all that --mode=predict does after reading a file, buckets and windows included.
    """
    everywhere, found = start.mesh, {}
    for name, rows in (("one_clip", 1), ("batch", start.config.train.batch_size), ("large_batch", LARGE_BATCH)):
        start = dataclasses.replace(start, mesh=None if rows == 1 else everywhere)
        bucket = start.bucket(rows, rows)
        batch = jax.tree.map(np.asarray, bucket.rows)
        calls = {"ours": our_call(start, batch), "ours_api": our_api(start, batch)}
        calls |= {f"torch_{mode}": torch_call(start, batch, mode) for mode in modes if not not_runnable(start, mode)}
        times = timing.alternate(
            {who: _repeated(call, CALLS[name]) for who, call in calls.items()}, CALLS[name], budget_s / 3
        )
        for time_of in times.values():
            time_of["clips_per_s"] = rows / (time_of["median_ms"] / 1000)
        found[name] = times | {"ratio_to_torch": timing.ratios(times, "ours", modes)}
    return found


def our_call(start: Setup, batch: Batch) -> Callable[[], np.ndarray]:
    state, model = start.state(), start.train_config.model
    inputs = _inputs(batch)
    place = functools.partial(mesh.shard_rows, mesh=start.mesh) if start.mesh else lambda batch: batch

    @jax.jit
    def probabilities(params, statistics, inputs):
        return jax.nn.softmax(apply(model, params, statistics, inputs, None))

    return lambda: np.asarray(probabilities(state.params, state.statistics, place(inputs)))


def our_api(start: Setup, batch: Batch) -> Callable[[], np.ndarray]:
    """`data.from_arrays` and `train.score`, as `predict.probabilities` calls them."""
    state, model, labels = start.state(), start.train_config.model, batch.label
    logmels, tokens = (
        [] if rows is None else [row[:length] for row, length in zip(rows, lengths, strict=True)]
        for rows, lengths in ((batch.logmel, batch.frames), (batch.tokens, batch.n_tokens))
    )
    return lambda: np.exp(scoring.score(model, state, start.dataset(logmels, tokens, labels, len(labels))))


def torch_call(start: Setup, batch: Batch, mode: str) -> Callable[[], np.ndarray]:
    module, device = start.torch_model().eval(), torch_device()
    if mode == "channels_last":
        module = module.to(memory_format=torch.channels_last)
    if mode == "compile":
        module = torch.compile(module)
    inputs = _inputs(batch).arrays()

    def call():
        with torch.inference_mode(), autocast(start.config.train.dtype):
            tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
            return module(Batch(**tensors)).float().softmax(-1).cpu().numpy()

    return call


def _inputs(batch: Batch) -> Batch:
    """A copy of what a model needs to predict."""
    inputs = Batch(logmel=batch.logmel, frames=batch.frames, tokens=batch.tokens, n_tokens=batch.n_tokens)
    return jax.tree.map(np.copy, inputs)


def _repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def turn():
        for _ in range(times):
            call()

    return turn
