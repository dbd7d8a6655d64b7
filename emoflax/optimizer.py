"""AdamW with warm-up, schedule and clipping."""

import jax
import optax

from emoflax.errors import UserError

NOT_DECAYED = ("bias", "embedding")


def learning_rate(
    *, peak: float, schedule: str, warmup_epochs: float, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Step -> learning rate: linear warm-up, then cosine to zero or constant."""
    total, warmup = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)
    if schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, min(warmup, total - 1), total)
    if schedule == "constant":
        return optax.linear_schedule(0.0 if warmup else peak, peak, max(warmup, 1))
    raise UserError(f"config.optimizer.schedule={schedule!r} does not exist; choose one of: cosine, constant")


def build(rate: optax.Schedule, *, weight_decay: float, clip_norm: float) -> optax.GradientTransformation:
    """Weight decay (Loshchilov & Hutter 2019) acts on matrices and kernels, not on biases and embeddings."""

    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, p: p.ndim > 1 and not any(word in jax.tree_util.keystr(path) for word in NOT_DECAYED), params
        )

    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(clip, optax.adamw(rate, weight_decay=weight_decay, mask=decayed))
