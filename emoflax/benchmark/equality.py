"""Checks that EmoFlax's model and its PyTorch twin do the same work: same logits, loss and norm of the gradient."""

import jax
import numpy as np
import torch
from ml_collections import ConfigDict

from emoflax.benchmark import setup, torch_runs
from emoflax.training.step import apply, train_step

TOLERANCE = 1e-4
ROWS = 8  # clips of different lengths, so that padding is compared, too


def check(config: ConfigDict) -> dict[str, float]:
    """Largest relative errors of logits, loss and gradient norm, in float32 and without dropout.

    Raises:
      ArithmeticError: they differ, so that times would compare two different models.
      UserError: an encoder that has no PyTorch twin.
    """
    config = config.copy_and_resolve_references()
    config.train.dtype = "float32"
    with torch_runs.exact_products():
        return _errors(config)


def _errors(config: ConfigDict) -> dict[str, float]:
    start = setup.prepare(config, dropout=False)
    batch = setup.first_batch(start.bucket(ROWS, ROWS))
    state, train_config = start.state(), start.train_config
    logits = jax.jit(apply, static_argnums=0)(train_config.model, state.params, state.statistics, batch, None)
    _, numbers = jax.jit(train_step, static_argnums=0)(train_config.step, state, batch)

    trainer = torch_runs.Trainer(start, batch, "eager")
    trainer.module.eval()
    with torch.inference_mode():
        torch_logits = trainer.module(trainer.batch).cpu().numpy()
    trainer.module.train()
    loss, norm = trainer.gradient()
    errors = {
        "logits": relative_error(torch_logits, logits),
        "loss": relative_error(loss, numbers["loss"]),
        "grad_norm": relative_error(norm, numbers["grad_norm"]),
    }
    if not max(errors.values()) < TOLERANCE:
        raise ArithmeticError(f"our model and its PyTorch twin differ (relative errors {errors}); nothing was timed")
    return errors


def relative_error(theirs, ours) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())
