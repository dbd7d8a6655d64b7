"""From features in memory to probabilities in memory, ours and PyTorch's: latency of a clip, throughput of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from emoflax.batch import Batch
from emoflax.benchmark import timing
from emoflax.benchmark.setup import Setup
from emoflax.parallel import mesh
from emoflax.training import scoring
from emoflax.training.step import apply

CLIPS_OF_A_TURN, MOST_CALLS = 64, 20


def measure(start: Setup, sizes: Mapping[str, int], modes: Sequence[str], budget_s: float) -> dict:
    """Times for each size, with `ratio_to_torch` by mode, ours the compiled model, and why modes were `skipped`.

    'ours_api' is all that --mode=predict does after reading a file, buckets and windows included.

    Args:
      sizes: name -> clips of one call.
      modes: of PyTorch, which is imported if there are any.
    """
    everywhere, found = start.mesh, {}
    for name, rows in sizes.items():
        start = dataclasses.replace(start, mesh=None if rows == 1 else everywhere)
        batch = jax.tree.map(np.asarray, start.bucket(rows, rows).rows)
        calls = {"ours": our_call(start, batch), "ours_api": our_api(start, batch)}
        theirs, skipped = _theirs(start, batch, modes)
        calls |= {f"torch_{mode}": call for mode, call in theirs.items()}
        repeats = min(MOST_CALLS, max(1, CLIPS_OF_A_TURN // rows))
        turns = {who: _repeated(call, repeats) for who, call in calls.items()}
        times = timing.alternate(turns, repeats, budget_s / len(sizes))
        for time_of in times.values():
            time_of["clips_per_s"] = rows / (time_of["median_ms"] / 1000)
        found[name] = times | {"ratio_to_torch": timing.ratios(times, "ours", modes), "skipped": skipped}
    return found


def our_call(start: Setup, batch: Batch) -> Callable[[], np.ndarray]:
    state, model = start.state(), start.train_config.model
    inputs = _inputs(batch)
    place = functools.partial(mesh.shard_rows, mesh=start.mesh) if start.mesh else lambda batch: batch

    leaves, structure = jax.tree.flatten((state.params, state.statistics))  # once, as --mode=predict does

    @jax.jit
    def probabilities(leaves, inputs):
        params, statistics = jax.tree.unflatten(structure, leaves)
        return jax.nn.softmax(apply(model, params, statistics, inputs, None))

    return lambda: np.asarray(probabilities(leaves, place(inputs)))


def our_api(start: Setup, batch: Batch) -> Callable[[], np.ndarray]:
    """`data.from_arrays` and `train.score`, as `predict.probabilities` calls them."""
    state, model, labels = start.state(), start.train_config.model, batch.label
    logmels, tokens = (
        [] if rows is None else [row[:length] for row, length in zip(rows, lengths, strict=True)]
        for rows, lengths in ((batch.logmel, batch.frames), (batch.tokens, batch.n_tokens))
    )
    return lambda: np.exp(scoring.score(model, state, start.dataset(logmels, tokens, labels, len(labels))))


def _theirs(start: Setup, batch: Batch, modes: Sequence[str]) -> tuple[dict, dict[str, str]]:
    if not modes:
        return {}, {}
    from emoflax.benchmark import torch_runs  # PyTorch, which an accelerator's machine may not have

    return torch_runs.predictors(start, _inputs(batch), modes)


def _inputs(batch: Batch) -> Batch:
    """A copy of what a model needs to predict."""
    inputs = Batch(logmel=batch.logmel, frames=batch.frames, tokens=batch.tokens, n_tokens=batch.n_tokens)
    return jax.tree.map(np.copy, inputs)


def _repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def turn():
        for _ in range(times):
            call()

    return turn
