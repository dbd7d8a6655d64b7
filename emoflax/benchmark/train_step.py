"""Times of EmoFlax's train step and of PyTorch's, in alternation."""

import contextlib
import time
from collections.abc import Sequence

import jax
import torch
from torch.nn import functional as F

from emoflax.batch import Batch
from emoflax.benchmark import timing
from emoflax.benchmark.setup import Setup, first_batch, torch_batch, torch_device
from emoflax.benchmark.torch_models import Classifier
from emoflax.data.dataset import Bucket
from emoflax.training.epoch import train_epoch
from emoflax.training.step import train_step

STEPS = 8  # of one turn, and of the epoch that is compiled as one program


class OurEpoch:
    """`epoch.train_epoch` as training runs it, choosing and gathering its batches included."""

    def __init__(self, start: Setup, bucket: Bucket):
        self.train_config, self.buckets, self.state = start.train_config, (bucket,), start.state()
        begin = time.perf_counter()
        self.turn()
        self.compile_s = time.perf_counter() - begin

    def turn(self) -> None:
        self.state, _ = train_epoch(self.train_config, self.state, self.buckets)
        jax.block_until_ready(self.state)


class OurStep:
    """`train.train_step` dispatched one by one, on one batch."""

    def __init__(self, start: Setup, bucket: Bucket):
        self.batch, self.state = first_batch(bucket), start.state()
        begin = time.perf_counter()
        step = jax.jit(train_step, static_argnums=0, donate_argnums=1)
        self.program = step.lower(start.train_config.step, self.state, self.batch).compile()
        self.compile_s = time.perf_counter() - begin

    def turn(self) -> None:
        for _ in range(STEPS):
            self.state, _ = self.program(self.state, self.batch)
        jax.block_until_ready(self.state)


class TorchTrainer:
    """The same step in PyTorch, on one batch that is already on the device."""

    def __init__(self, start: Setup, batch: Batch, mode: str):
        self.config, self.batch = start.config, torch_batch(batch)
        self.batch = self.batch.replace(label=self.batch.label.long())
        self.module = start.torch_model().train()
        if mode == "channels_last":
            self.module = self.module.to(memory_format=torch.channels_last)
        optimizer = self.config.optimizer
        decayed, free = _by_decay(self.module)
        groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": free, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=optimizer.learning_rate, fused=True)
        self.forward = torch.compile(self.module) if mode == "compile" else self.module
        self.first_step_s = 0.0

    def warm_up(self) -> None:
        """The first step, in which torch.compile compiles."""
        begin = time.perf_counter()
        self.step()
        self.first_step_s = time.perf_counter() - begin

    def gradient(self) -> tuple[float, float]:
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
        for _ in range(STEPS):
            self.step()
        if torch_device() == "cuda":
            torch.cuda.synchronize()


def autocast(dtype: str) -> contextlib.AbstractContextManager:
    """bfloat16 arithmetic with float32 weights, as ours."""
    return torch.autocast(torch_device(), torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()


def _by_decay(module: Classifier) -> tuple[list, list]:
    """Parameters that `emoflax.training.optimizer` decays, and the others."""
    named = [(p.ndim > 1 and "embedding" not in name, p) for name, p in module.named_parameters()]
    return [p for decay, p in named if decay], [p for decay, p in named if not decay]


def not_runnable(start: Setup, mode: str) -> str:
    """Why a mode makes no sense for this model, or ''."""
    return "there is no convolution" if mode == "channels_last" and not start.config.model.audio else ""


def ours(start: Setup, bucket: Bucket) -> dict[str, OurEpoch | OurStep]:
    return {"ours_epoch": OurEpoch(start, bucket), "ours_step": OurStep(start, bucket)}


def theirs(start: Setup, bucket: Bucket, modes: Sequence[str]) -> tuple[dict[str, TorchTrainer], dict[str, str]]:
    """Trainers after their first step, by mode, and the reasons why other modes cannot run."""
    trainers, skipped = {}, {}
    for mode in modes:
        if reason := not_runnable(start, mode):
            skipped[mode] = reason
            continue
        trainer = TorchTrainer(start, first_batch(bucket), mode)
        try:
            trainer.warm_up()
        except RuntimeError as error:  # of torch.compile, for example without a C++ compiler
            skipped[mode] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            continue
        trainers[f"torch_{mode}"] = trainer
    return trainers, skipped


def measure(contestants: dict, start: Setup, peak_flops: float, gflop_per_clip: float, budget_s: float) -> dict:
    """Times of one step, in ms, clips per second, arithmetic per second and as a share of the peak."""
    times = timing.alternate({name: contestant.turn for name, contestant in contestants.items()}, STEPS, budget_s)
    batch_size = start.config.train.batch_size
    for time_of in times.values():
        time_of["clips_per_s"] = batch_size / (time_of["median_ms"] / 1000)
        time_of["gflop_per_s"] = time_of["clips_per_s"] * gflop_per_clip
        time_of["peak_share"] = time_of["gflop_per_s"] * 1e9 / peak_flops
    return times
