"""The registry: an encoder is one file and one line here.

An audio encoder is built as `Encoder(mels, **its_config, dtype=, rngs=)` and called with log-mels
[batch, frames, mels] and their lengths; a text encoder as `Encoder(vocabulary, **its_config, dtype=, rngs=)` and
called with token ids [batch, tokens] and their lengths. Both return (sequence [batch, steps, width], mask
[batch, steps]) and say their `width`.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from emoflax.errors import UserError
from emoflax.models.classifier import Classifier
from emoflax.models.cnn import Cnn
from emoflax.models.gru import Gru

AUDIO_ENCODERS = {"cnn": Cnn}
TEXT_ENCODERS = {"gru": Gru}
DTYPES = ("float32", "bfloat16")


def build(model: Mapping, *, mels: int, vocabulary: int, classes: int, dtype: str, seed: int) -> Classifier:
    """A freshly initialised classifier.

    Args:
      model: the fields of config.model.
      mels: mel bands of the log-mels that it will see; unused without an audio encoder.
      vocabulary: size of the vocabulary, <pad> and <unk> included; unused without a text encoder.
      dtype: 'float32' or 'bfloat16', the arithmetic of the forward pass; weights are float32.

    Raises:
      UserError: an encoder that the registry does not have, or none at all.
    """
    if dtype not in DTYPES:
        raise UserError(f"config.train.dtype={dtype!r} is not supported; choose one of: {', '.join(DTYPES)}")
    rngs = nnx.Rngs(seed)
    options = {"dtype": jnp.dtype(dtype), "rngs": rngs}
    audio, text = (
        _find(kind, model[kind], encoders) for kind, encoders in (("audio", AUDIO_ENCODERS), ("text", TEXT_ENCODERS))
    )
    if audio is None and text is None:
        raise UserError("config.model has neither an audio nor a text encoder; set config.model.audio or .text")
    return Classifier(
        audio and audio(mels, **model[model["audio"]], **options),
        text and text(vocabulary, **model[model["text"]], **options),
        mels=mels,
        pooling=model["pooling"],
        head=model["head"],
        dropout=model["dropout"],
        classes=classes,
        **options,
    )


def _find(kind: str, name: str, encoders: Mapping):
    if name and name not in encoders:
        raise UserError(f"config.model.{kind}={name!r} is not in the registry; choose one of: {', '.join(encoders)}")
    return encoders[name] if name else None
