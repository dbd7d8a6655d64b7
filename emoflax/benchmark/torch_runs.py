"""PyTorch's side of the comparison: its train step and its predictions, as its users run them."""

import contextlib
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import torch
from torch.nn import functional as F

from emoflax.batch import Batch
from emoflax.benchmark import torch_models
from emoflax.benchmark.setup import CLASSES, WORDS, Setup, first_batch
from emoflax.benchmark.torch_models import Classifier
from emoflax.data.dataset import Bucket

MODES = ("eager", "channels_last", "compile")
GPU_MODES = (
    *MODES,
    "cuda_graphs",
)  # the last: torch.compile(mode="reduce-overhead"), for steps shorter than a dispatch


def device() -> str:
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def as_our_products() -> None:
    """Lets float32 products use TF32 on a GPU that has it, as JAX's do unless they are told otherwise."""
    if device() == "cuda":
        torch.set_float32_matmul_precision("high")


@contextlib.contextmanager
def exact_products():
    """Inside it float32 products are of float32 on either side, which equality needs."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def twin(start: Setup) -> Classifier:
    """The same model with the same weights, on the device.

    Raises:
      UserError: an encoder that is not written in PyTorch here.
    """
    theirs = torch_models.build(start.config, WORDS + 2, CLASSES)
    torch_models.copy_weights(start.model, theirs)
    return theirs.to(device())


def in_mode(module: Classifier, mode: str) -> Callable[[Batch], torch.Tensor]:
    """The module as one of `GPU_MODES` calls it; its parameters stay its own."""
    if mode == "channels_last":
        module.to(memory_format=torch.channels_last)
    if mode == "compile":
        return torch.compile(module)
    return torch.compile(module, mode="reduce-overhead") if mode == "cuda_graphs" else module


class Trainer:
    """The train step on one batch that is already on the device; `steps`: of a turn."""

    def __init__(self, start: Setup, batch: Batch, mode: str, steps: int = 1):
        self.config, self.steps = start.config, steps
        self.batch = jax.tree.map(lambda array: torch.tensor(np.asarray(array)).to(device()), batch)
        self.batch = self.batch.replace(label=self.batch.label.long())
        self.module = twin(start).train()
        self.forward = in_mode(self.module, mode)
        optimizer = self.config.optimizer
        decayed, free = by_decay(self.module)
        groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": free, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=optimizer.learning_rate, fused=True)
        self.first_step_s, self.memory_mib = 0.0, None

    def warm_up(self) -> None:
        """The first step, in which torch.compile compiles; on a GPU, the most memory that it and a second one took."""
        on_gpu = device() == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        self.step()
        _wait()
        self.first_step_s = time.perf_counter() - begin
        if on_gpu:
            self.step()
            self.memory_mib = torch.cuda.max_memory_allocated() / 2**20

    def gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and norm of the gradient, which is left in the parameters, clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.config.train.dtype):
            logits = self.forward(self.batch)
        loss = F.cross_entropy(
            logits.float(), self.batch.label, reduction="none", label_smoothing=self.config.train.label_smoothing
        )
        loss = (loss * self.batch.weight).sum() / self.batch.weight.sum()
        loss.backward()
        clip_norm = self.config.optimizer.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), clip_norm)
        return loss.detach(), norm

    def step(self) -> None:
        self.gradient()
        self.optimizer.step()

    def turn(self) -> None:
        for _ in range(self.steps):
            self.step()
        _wait()


def trainers(start: Setup, bucket: Bucket, modes: Sequence[str]) -> tuple[dict[str, Trainer], dict[str, str]]:
    """Trainers after their first step, by mode, and the reasons why other modes cannot run."""

    def begin(mode: str) -> Trainer:
        trainer = Trainer(start, first_batch(bucket), mode, bucket.steps)
        trainer.warm_up()
        return trainer

    return _those_that_run(start, modes, begin)


def predictors(
    start: Setup, inputs: Batch, modes: Sequence[str]
) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, str]]:
    """Calls from arrays in memory to probabilities in memory, by mode, each made once; and why others cannot run."""
    arrays = inputs.arrays()

    def begin(mode: str) -> Callable[[], np.ndarray]:
        forward = in_mode(twin(start).eval(), mode)

        def call() -> np.ndarray:
            with torch.inference_mode(), autocast(start.config.train.dtype):
                tensors = {name: torch.from_numpy(array).to(device()) for name, array in arrays.items()}
                return forward(Batch(**tensors)).float().softmax(-1).cpu().numpy()

        call()
        return call

    return _those_that_run(start, modes, begin)


def _those_that_run(start: Setup, modes: Sequence[str], begin: Callable) -> tuple[dict, dict[str, str]]:
    torch.compiler.reset()  # or shapes met before would be compiled with sizes that vary, and after eight not at all
    running, skipped = {}, {}
    for mode in modes:
        if reason := not_runnable(start, mode):
            skipped[mode] = reason
            continue
        try:
            running[mode] = begin(mode)
        except RuntimeError as error:  # of torch.compile, for example without a C++ compiler
            skipped[mode] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return running, skipped


def not_runnable(start: Setup, mode: str) -> str:
    """Why a mode makes no sense for this model or device, or ''."""
    if mode == "cuda_graphs" and device() != "cuda":
        return "CUDA graphs are for a GPU"
    return "there is no convolution" if mode == "channels_last" and not start.config.model.audio else ""


def autocast(dtype: str) -> contextlib.AbstractContextManager:
    """bfloat16 arithmetic with float32 weights, as ours."""
    return torch.autocast(device(), torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()


def by_decay(module: Classifier) -> tuple[list, list]:
    """Parameters that `emoflax.training.optimizer` decays, and the others."""
    named = [(p.ndim > 1 and "embedding" not in name, p) for name, p in module.named_parameters()]
    return [p for decay, p in named if decay], [p for decay, p in named if not decay]


def product(dtype: str, size: int, times: int) -> Callable[[], None]:
    """A turn of so many products of square matrices."""
    matrix = torch.ones(size, size, dtype=getattr(torch, dtype), device=device())

    def turn() -> None:
        for _ in range(times):
            torch.matmul(matrix, matrix)
        _wait()

    return turn


def free_memory() -> None:
    """Gives the GPU memory that PyTorch keeps for later back to JAX."""
    if device() == "cuda":
        torch.cuda.empty_cache()


def _wait() -> None:
    if device() == "cuda":
        torch.cuda.synchronize()
