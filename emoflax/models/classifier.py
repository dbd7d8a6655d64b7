"""Encoders -> fusion (with its pooling and heads) -> logits: what every model of encoders shares."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emoflax.batch import Batch
from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models.dropout import Rate, dropout, split
from emoflax.models.fusion import Streams


class Statistic(nnx.Variable):
    """A number computed from the training clips: saved with the weights, not trained."""


class Normalise(nnx.Module):
    """(log-mel - mean) / std per mel band, zero beyond each clip's end."""

    def __init__(self, mels: int):
        self.mean = Statistic(jnp.zeros(mels))
        self.std = Statistic(jnp.ones(mels))

    def set(self, mean: np.ndarray, std: np.ndarray) -> None:
        self.mean[...], self.std[...] = jnp.asarray(mean), jnp.asarray(std)

    def __call__(self, logmel_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        mask_BxTx1 = valid(frames_B, logmel_BxTxF.shape[1])[..., None]
        mean, std = self.mean[...][None, None], self.std[...][None, None]
        return jnp.where(mask_BxTx1, (logmel_BxTxF - mean) / std, 0)


class Head(nnx.Module):
    """Pooled vector [batch, width] -> logits [batch, classes] float32, through a hidden layer if `hidden` is not 0."""

    def __init__(self, width: int, *, hidden: int, dropout: float, classes: int, dtype, rngs: nnx.Rngs):
        self.rate = Rate.of(dropout)
        self.hidden = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs) if hidden else None
        self.logits = nnx.Linear(hidden or width, classes, dtype=dtype, rngs=rngs)

    def __call__(self, h_BxD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        in_key, hidden_key = split(key, 2)
        h_BxD = dropout(h_BxD, self.rate, in_key)
        if self.hidden:
            h_BxD = dropout(jax.nn.relu(self.hidden(h_BxD)), self.rate, hidden_key)
        return self.logits(h_BxD).astype(jnp.float32)


class Classifier(nnx.Module):
    """Any audio encoder, any text encoder, or both, fused and classified.

    Args:
      audio, text: encoders, or None.
      fusion: of `emoflax.models.fusion`, built for the encoders' widths.
      modality_dropout: {'audio': share, 'text': share} of the clips that lose that modality in training; a clip never
        loses its only one.
      sound_dtype: of the audio encoder's input; waveforms stay float32 where log-mels may become bfloat16.
      frontend: makes log-mels (or frames, for a wave encoder) of batches that hold waveforms; None: they hold log-mels.
      pcen: compresses log-mels before they are normalised; None: they stay in dB.
      absent: fills mel bands that a recording does not have with the training mean; None: they stay at their floor.
      projection: maps pooled vectors to those that a contrastive loss compares; None: there is no such loss.
      test_time: test-time augmentation (`emoflax.audio.test_time`); None: a clip is predicted as it is.
    """

    def __init__(
        self, audio, text, fusion, *, mels: int, classes: int, modality_dropout: Mapping[str, float], sound_dtype,
        frontend, pcen=None, absent=None, projection=None, test_time=None,
    ):  # fmt: skip
        if not 0 <= sum(modality_dropout.values()) <= 1:
            raise UserError("config.model.modality_dropout: audio and text are shares of the clips, 1 together at most")
        self.classes, self.sound_dtype, self.frontend = classes, sound_dtype, frontend
        # Statistics of log-mels in dB, also with PCEN: augmentation masks with this mean.
        self.normalise = Normalise(mels) if audio else None
        self.test_time = test_time if audio else None
        self.absent = absent if audio else None
        self.pcen, self.normalise_pcen = pcen, Normalise(mels) if audio and pcen else None
        self.audio, self.text, self.fusion, self.projection = audio, text, fusion, projection
        self.audio_missing, self.text_missing = modality_dropout["audio"], modality_dropout["text"]

    def __call__(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """Logits [batch, classes], float32.

        Args:
          batch: log-mels or waveforms, and tokens, with their lengths; a modality without an encoder may be None.
          key: randomness of training; None, in evaluation, switches it off.
        """
        if key is None and self.test_time:
            return self.test_time.log_probabilities(self.to_log_mel(batch), lambda one: self._read(one, None)[0])
        return self._read(batch, key)[0]

    def embed(self, batch: Batch) -> jax.Array:
        """The pooled vectors that the head classifies, [batch, width]."""
        return self._read(batch, None)[1]

    def compared(self, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The logits, and the vectors [batch, projection] that a contrastive loss compares."""
        logits_BxC, pooled_BxD = self._read(batch, key)
        return logits_BxC, self.projection(pooled_BxD)

    def _read(self, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        encoder_key, fusion_key = split(key, 2)
        return self.fusion.read(self._encode(batch, encoder_key), fusion_key)

    def attention(self, batch: Batch) -> dict[str, jax.Array]:
        """The weights of attention pooling, by modality: [batch, steps, heads]."""
        return self.fusion.attention(self._encode(batch, None))

    def _encode(self, batch: Batch, key: jax.Array | None) -> Streams:
        batch = self.to_log_mel(batch)
        drop_key, audio_key, text_key = split(key, 3)
        if self.audio and self.text and key is not None:
            batch = self._drop_modalities(batch, drop_key)
        streams = {}
        if self.audio:
            streams["audio"] = self.audio(self._scaled(batch.logmel, batch.frames), batch.frames, audio_key)
        if self.text:
            streams["text"] = self.text(batch.tokens, batch.n_tokens, text_key)
        # Once for all encoders: nothing beyond a clip's end reaches the fusion.
        return {name: (jnp.where(mask[..., None], h, 0), mask) for name, (h, mask) in streams.items()}

    def to_log_mel(self, batch: Batch) -> Batch:
        """The batch with log-mels, which are made here if it holds waveforms (`emoflax.audio.frontend.LogMel`)."""
        batch = self.frontend(batch) if batch.wave is not None else batch
        if self.absent is None or batch.logmel is None:
            return batch
        return batch.replace(logmel=self.absent(batch.logmel, batch.frames, self.normalise.mean[...]))

    def _scaled(self, logmel_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
        if self.pcen:
            return self.normalise_pcen(self.pcen(logmel_BxTxF), frames_B).astype(self.sound_dtype)
        return self.normalise(logmel_BxTxF, frames_B).astype(self.sound_dtype)

    def _drop_modalities(self, batch: Batch, key: jax.Array) -> Batch:
        frames_B, n_tokens_B = batch.frames, batch.n_tokens
        draw_B = jax.random.uniform(key, frames_B.shape)
        both_B = (frames_B > 0) & (n_tokens_B > 0)
        return batch.replace(
            frames=jnp.where(both_B & (draw_B < self.audio_missing), 0, frames_B),
            n_tokens=jnp.where(both_B & (draw_B >= 1 - self.text_missing), 0, n_tokens_B),
        )
