"""The registry: an encoder is one file and one line here.

An audio encoder is built as `Encoder(mels, **its_config, dtype=, rngs=)` and called with log-mels
[batch, frames, mels], their lengths and a key (None: no randomness); a text encoder as `Encoder(vocabulary,
**its_config, dtype=, rngs=)` and called with token ids [batch, tokens], their lengths and a key. Both return (sequence
[batch, steps, width], mask [batch, steps]) and have an attribute `width`. A length of 0 gives an all-False mask.
A wave encoder is an audio encoder that takes frames of the waveform itself in the place of log-mels
(`emoflax.audio.wave_frames`), in float32.
An encoder whose layers are to be features has `states(sequence, lengths)`: float32 [batch, 1 + layers, width], the
means over time of the first layer's input and of every layer's output.
An audio encoder whose attention is to be drawn also has `centres(steps)`: the frame in the middle of each step, nan for
a step without a place in time.

A model of functionals is a whole classifier, built as `Model(functionals, **its_config, classes=, dtype=, rngs=)`; one
that makes functionals itself gets `mels` in their place.

Poolings are described in pooling.py, fusions in fusion.py. `config.model.<name>` holds the settings of the encoder,
pooling or fusion of that name; one without settings has no such group.

An encoder of somebody's own needs no line here: it is named 'module:Class', its settings are `config.model.<Class>`.
With an attribute `takes_contours = True` of the class it may get contours behind the mel bands, with `takes_waveform =
True` it is a wave encoder.
"""

import functools
import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from emoflax.audio.absent_bands import AbsentBands
from emoflax.audio.frontend import Frontend
from emoflax.audio.pcen import Pcen
from emoflax.audio.test_time import TestTimeAugmentation
from emoflax.errors import UserError
from emoflax.models import lora, own
from emoflax.models.aligned import Aligned
from emoflax.models.ast import Ast
from emoflax.models.attention_cnn import AttentionCnn
from emoflax.models.bert import Bert
from emoflax.models.classifier import Classifier, Head
from emoflax.models.cnn import Cnn
from emoflax.models.functionals import Ridge
from emoflax.models.fusion import Concat, Early, Gated, Hybrid, Late
from emoflax.models.gru import Gru
from emoflax.models.layer_outputs import side_by_side
from emoflax.models.layer_sum import LayerSum
from emoflax.models.mean_std import MeanStd
from emoflax.models.pooling import AttentiveStatistics, Mean, MeanMax
from emoflax.models.wave import WaveEncoder
from emoflax.models.wavlm import WavLm
from emoflax.models.whisper import Whisper

WAVE_ENCODERS = {"data2vec_audio": WaveEncoder, "hubert": WaveEncoder, "wav2vec2": WaveEncoder, "wavlm": WavLm}
AUDIO_ENCODERS = {"ast": Ast, "attention_cnn": AttentionCnn, "cnn": Cnn, "whisper": Whisper, **WAVE_ENCODERS}
CONTOUR_ENCODERS = ("attention_cnn",)  # whose input channels need not be mels: contours may follow
TEXT_ENCODERS = {"bert": Bert, "gru": Gru}
FUNCTIONALS_MODELS = {"ridge": Ridge, "aligned": Aligned, "states": Ridge, "layer_sum": LayerSum}
FRAME_LEVEL_MODELS = ("aligned",)  # of these, those whose input is log-mels with contours
STATES_MODELS = ("states", "layer_sum")  # whose input is the states of a pretrained encoder
POOLINGS = {"mean": Mean, "mean_max": MeanMax, "mean_std": MeanStd, "attention": AttentiveStatistics}
FUSIONS = {"concat": Concat, "early": Early, "late": Late, "gated": Gated, "hybrid": Hybrid}
DTYPES = ("float32", "bfloat16")


def build(
    model: Mapping, *, mels: int, vocabulary: int, classes: int, dtype: str, seed: int | jax.Array,
    frontend: Frontend | None = None, pcen: Pcen | None = None, projection: int = 0,
    test_time: TestTimeAugmentation | None = None, functionals: int = 0, absent: AbsentBands | None = None,
) -> Classifier | Ridge:  # fmt: skip
    """A freshly initialised classifier.

    Args:
      model: the fields of config.model.
      mels: channels of the log-mels (contours included); unused without an audio encoder.
      vocabulary: size of the vocabulary, <pad> and <unk> included; unused without a text encoder.
      dtype: 'float32' or 'bfloat16', the arithmetic of the forward pass; weights are float32.
      seed: of the weights, or its key.
      frontend: makes log-mels or frames of waveforms, for batches that hold waveforms.
      pcen: compresses log-mels in dB before they are normalised; None: no compression.
      projection: width of the vectors that a contrastive loss compares; 0: no such loss. Functionals have none.
      test_time: test-time augmentation. functionals: width of the input of a model of functionals.
      absent: fills mel bands that a recording does not have; None: they stay at their floor.

    Raises:
      UserError: a name that the registry does not have, or no encoder at all.
    """
    if dtype not in DTYPES:
        raise UserError(f"config.train.dtype={dtype!r} is not supported; choose one of: {', '.join(DTYPES)}")
    options = {"dtype": jnp.dtype(dtype), "rngs": nnx.Rngs(seed)}
    builder = functools.partial(_builder, model, options)
    if model["functionals"]:
        if model["audio"] or model["text"]:
            raise UserError(
                "config.model.functionals is a whole classifier: set config.model.audio and .text to ''; to combine it "
                "with others, make each a candidate of --mode=crossval, whose ensemble weights their probabilities"
            )
        size = mels if model["functionals"] in FRAME_LEVEL_MODELS else functionals
        return builder("functionals", FUNCTIONALS_MODELS)(size, classes=classes)
    audio, text = _encoders(model, builder, mels, vocabulary)
    widths = {name: encoder.width for name, encoder in (("audio", audio), ("text", text)) if encoder}
    parts = {
        "pooling": builder("pooling", POOLINGS),
        "head": functools.partial(Head, hidden=model["head"], dropout=model["dropout"], classes=classes, **options),
    }
    make_fusion = builder("fusion", FUSIONS) if len(widths) > 1 else functools.partial(Concat, **options)
    fusion = make_fusion(widths, **parts)
    compared = {"hidden": fusion.pooled_width, "dropout": 0.0, "classes": projection}
    made = Classifier(
        audio,
        text,
        fusion,
        mels=mels,
        classes=classes,
        modality_dropout=model["modality_dropout"],
        sound_dtype=jnp.dtype("float32") if takes_waveform(model["audio"]) else options["dtype"],
        frontend=frontend,
        pcen=pcen,
        absent=absent,
        projection=Head(fusion.pooled_width, **compared, **options) if projection else None,
        test_time=test_time,
    )
    if model["lora"]["rank"]:  # last: the other weights are drawn as they are without
        lora.add([encoder for encoder in (audio, text) if encoder], **model["lora"], rngs=options["rngs"])
    return made


def _encoders(
    model: Mapping, builder: Callable, mels: int, vocabulary: int
) -> tuple[nnx.Module | None, nnx.Module | None]:
    """Those of sound and of words; raises UserError where there is neither."""
    if not (model["audio"] or model["text"]):
        raise UserError("config.model has no encoder at all; set config.model.audio, .text or .functionals")
    audio = builder("audio", AUDIO_ENCODERS)(mels) if model["audio"] else None
    return audio, builder("text", TEXT_ENCODERS)(vocabulary) if model["text"] else None


def _builder(model: Mapping, options: Mapping, kind: str, registry: Mapping) -> Callable:
    """Builds the part that config.model.<kind> names, with the settings of that name.

    Raises:
      UserError: the registry does not have it.
    """
    name = model[kind]
    if name not in registry and not (registry in (AUDIO_ENCODERS, TEXT_ENCODERS) and own.is_own(name)):
        raise UserError(f"config.model.{kind}={name!r} is not in the registry; choose one of: {', '.join(registry)}")
    settings, made = model.get(own.settings(name), {}), class_of(registry, name)
    try:
        inspect.signature(made.__init__).bind_partial(None, **settings, **options)
    except TypeError as error:
        raise UserError(f"config.model.{own.settings(name)} does not fit {kind} {name!r}: {error}") from error
    if kind == "audio" and model["layers"]:
        return functools.partial(side_by_side(made), outputs=tuple(model["layers"]), **settings, **options)
    return functools.partial(made, **settings, **options)


def class_of(registry: Mapping, name: str) -> type[nnx.Module] | None:
    """The class of a name; None for one that the registry does not have. Errors of 'module:Class' as of `own.load`."""
    return own.load(name) if own.is_own(name) else registry.get(name)


def takes_contours(name: str) -> bool:
    """Whether the input channels of an audio encoder or of a model of functionals need not be mels alone."""
    if own.is_own(name):
        return bool(getattr(own.load(name), "takes_contours", False))
    return name in CONTOUR_ENCODERS + FRAME_LEVEL_MODELS


def takes_waveform(name: str) -> bool:
    """Whether an audio encoder takes frames of the waveform in the place of log-mels."""
    return bool(getattr(own.load(name), "takes_waveform", False)) if own.is_own(name) else name in WAVE_ENCODERS
