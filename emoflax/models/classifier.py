"""Encoders -> pooling -> head -> logits: the part that every model shares."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from emoflax.errors import UserError
from emoflax.models.pooling import POOLINGS, valid


class Statistic(nnx.Variable):
    """A number taken from the training clips: saved with the weights, never touched by the optimizer."""


class Normalise(nnx.Module):
    """(log-mel - mean) / std per mel band, zero beyond each clip's end."""

    def __init__(self, mels: int):
        self.mean = Statistic(jnp.zeros(mels))
        self.std = Statistic(jnp.ones(mels))

    def __call__(self, logmel_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        mask_BxTx1 = valid(frames_B, logmel_BxTxF.shape[1])[..., None]
        mean, std = self.mean[...][None, None], self.std[...][None, None]
        return jnp.where(mask_BxTx1, (logmel_BxTxF - mean) / std, 0)


class Classifier(nnx.Module):
    """Any audio encoder, any text encoder, or both, pooled over time, joined, and classified."""

    def __init__(
        self, audio, text, *, mels: int, pooling: str, head: int, dropout: float, classes: int, dtype, rngs: nnx.Rngs
    ):
        if pooling not in POOLINGS:
            raise UserError(f"config.model.pooling={pooling!r} does not exist; choose one of: {', '.join(POOLINGS)}")
        self.pooling, self.dtype = pooling, dtype
        self.normalise = Normalise(mels) if audio else None
        self.audio, self.text = audio, text
        width = POOLINGS[pooling][1] * sum(encoder.width for encoder in (audio, text) if encoder)
        self.hidden = nnx.Linear(width, head, dtype=dtype, rngs=rngs) if head else None
        self.logits = nnx.Linear(head or width, classes, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """Logits [batch, classes], float32.

        Args:
          batch: 'logmel' [batch, frames, mels] in dB and 'frames' [batch]; 'tokens' [batch, tokens] and
            'n_tokens' [batch]. What no encoder asks for may be missing.
          key: randomness of dropout; None, in evaluation, switches it off.
        """
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        pool = POOLINGS[self.pooling][0]
        pooled = []
        if self.audio:
            logmel = self.normalise(batch["logmel"], batch["frames"]).astype(self.dtype)
            pooled.append(pool(*self.audio(logmel, batch["frames"], keys[0])))
        if self.text:
            pooled.append(pool(*self.text(batch["tokens"], batch["n_tokens"], keys[1])))
        h_BxD = self._drop(jnp.concatenate(pooled, axis=-1), keys[2])
        if self.hidden:
            h_BxD = self._drop(jax.nn.relu(self.hidden(h_BxD)), keys[3])
        return self.logits(h_BxD).astype(jnp.float32)

    def _drop(self, h_BxD: jax.Array, key: jax.Array | None) -> jax.Array:
        return self.dropout(h_BxD, deterministic=key is None, rngs=key)
