"""What the benchmark of an accelerator measures, part by part; each part is one entry of accelerator.json."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from emoflax.benchmark import device, population, prediction, setup, shapes, timing, train_step

DTYPES = ("float32", "bfloat16")
CLIPS = (1, 16, 64, 256)  # of one call of a prediction
MEMBERS = 32  # of a population


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long and on what a part is measured.

    Attributes:
      budget_s: of timing, after compilation; a few rounds are always done.
      steps: of one turn of training.
      size: rows of the square matrices whose product gives the peak.
      products: of one turn.
      shrink: whether models are made small.
    """

    budget_s: float
    steps: int
    size: int
    products: int
    shrink: bool = False


ACCELERATOR = Effort(budget_s=20.0, steps=64, size=8192, products=8)
PROCESSOR = Effort(budget_s=20.0, steps=train_step.STEPS, size=timing.PEAK_SIZE, products=1)
QUICK = Effort(budget_s=0.0, steps=2, size=64, products=1, shrink=True)


@dataclasses.dataclass(frozen=True)
class Job:
    """What all parts share: the effort, what was measured before, and why PyTorch is missing ('': it is there)."""

    effort: Effort
    parts: Mapping[str, dict[str, Any]]
    without_torch: str

    def config(self, model: str, dtype: str = "float32") -> ConfigDict:
        config = shapes.config_of(model)
        config.train.dtype = dtype
        if self.effort.shrink:
            shapes.shrink(config)
        return config

    def modes(self, model: str) -> Sequence[str]:
        """Of PyTorch; none where it is missing, or where its model is not equal to ours."""
        if self.without_torch or "relative_error" not in self.parts.get(f"equal/{model}", {}):
            return ()
        from emoflax.benchmark import torch_runs

        return torch_runs.MODES[:2] if self.effort.shrink else torch_runs.GPU_MODES

    def peak_flops(self, dtype: str) -> float:
        """Raises RuntimeError if it is not measured."""
        part = self.parts.get(f"product/{dtype}", {})
        if "flops" not in part:
            raise RuntimeError("the matrix product, whose speed is the peak, could not be measured")
        return max(part["flops"].values())


def parts(models: Sequence[str]) -> dict[str, Callable[[Job], dict[str, Any]]]:
    """Name -> measurement, the most wanted first: an hour may end early."""
    both = [(model, dtype) for dtype in DTYPES for model in models]
    twins = [model for model in models if model in shapes.WITH_TWIN]
    return (
        {f"product/{dtype}": functools.partial(product, dtype=dtype) for dtype in DTYPES}
        | {f"equal/{model}": functools.partial(equal, model=model) for model in twins}
        | {f"train/{model}/{dtype}": functools.partial(train, model=model, dtype=dtype) for model, dtype in both}
        | {f"predict/{model}/{dtype}": functools.partial(predict, model=model, dtype=dtype) for model, dtype in both}
        | {f"population/{model}": functools.partial(together, model=model) for model in twins}
    )


def product(job: Job, *, dtype: str) -> dict[str, Any]:
    """The peak: FLOP/s of a large matrix product by each library, and what the data sheet says (None: not known)."""
    effort, theirs = job.effort, {}
    if not job.without_torch:
        from emoflax.benchmark import torch_runs

        theirs["torch"] = torch_runs.product(dtype, effort.size, effort.products)
    rates = timing.matmul_rates(dtype, effort.budget_s / 4, size=effort.size, times=effort.products, theirs=theirs)
    return {"flops": rates, "size": effort.size, "data_sheet": device.data_sheet_flops(device.facts()["device"], dtype)}


def equal(job: Job, *, model: str) -> dict[str, Any]:
    """Relative errors between our model and PyTorch's, which are compared in speed only if they are equal."""
    if job.without_torch:
        return {}
    from emoflax.benchmark import equality

    return {"relative_error": equality.check(job.config(model))}


def train(job: Job, *, model: str, dtype: str) -> dict[str, Any]:
    """Times, arithmetic and memory of a train step; see `train_step.measure`."""
    start, modes = setup.prepare(job.config(model, dtype)), job.modes(model)
    batch_size, peak_flops = start.config.train.batch_size, job.peak_flops(dtype)
    bucket = start.bucket(job.effort.steps * batch_size, batch_size)
    contestants, skipped = train_step.ours(start, bucket), {}
    if modes:
        from emoflax.benchmark import torch_runs

        theirs, skipped = torch_runs.trainers(start, bucket, modes)
        contestants |= {f"torch_{mode}": trainer for mode, trainer in theirs.items()}
    found = train_step.measure(contestants, start, bucket, modes, peak_flops, job.effort.budget_s)
    return found | {"skipped": skipped, "device_peak_memory_mib": device.peak_memory_mib()}


def predict(job: Job, *, model: str, dtype: str) -> dict[str, Any]:
    """Times of a prediction of so many clips; see `prediction.measure`."""
    start, sizes = setup.prepare(job.config(model, dtype)), {str(clips): clips for clips in CLIPS}
    found = prediction.measure(start, sizes, job.modes(model), job.effort.budget_s)
    return {"prediction": found}


def together(job: Job, *, model: str) -> dict[str, Any]:
    """Times of a population's step per member; see `population.measure`."""
    config = job.config(model)
    found = population.measure(config, MEMBERS, job.effort.budget_s, job.effort.steps)
    return {"population": found, "members": MEMBERS, "batch_size": config.train.batch_size}
