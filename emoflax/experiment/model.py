"""A config's model, freshly initialised."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from emoflax import models, pretrained
from emoflax.audio.absent_bands import AbsentBands
from emoflax.audio.channels import channels, functionals_count
from emoflax.audio.frontend import Frontend, LogMel, Samples
from emoflax.audio.pcen import Pcen
from emoflax.audio.test_time import TestTimeAugmentation
from emoflax.data import subwords
from emoflax.data.features import Features, logmel_statistics
from emoflax.errors import UserError
from emoflax.models import states

# Options of XLA for the program that draws first weights. At this level it compiles in less than half of the time. The
# pass left out multiplies constant factors ahead, which changes the last bit of normal draws; without it the weights
# are those of eager JAX, bit for bit.
_DRAWN_WITH = {"xla_backend_optimization_level": 1, "xla_disable_hlo_passes": "algsimp"}
_SILENCE = "model.whisper.silence_s"  # the one field that weights decide only where the config leaves it at 0


def resolve(config: ConfigDict) -> None:
    """Sets the fields that pretrained weights and tokenizers decide, so that a checkpoint describes itself."""
    for kind, path in list(config.model.pretrained.items()):
        if path and not config.model[kind]:
            raise UserError(f"config.model.pretrained.{kind} is set, but config.model.{kind} names no encoder")
        config.model.pretrained[kind] = path = pretrained.pinned(path)
        decided = pretrained.fields(config.model[kind], path) if path else {}
        if config.model.whisper.silence_s:
            decided.pop(_SILENCE, None)
        for field, value in decided.items():
            logging.info("%s decides: config.%s=%s", path, field, value)
        config.update_from_flattened_dict(decided)
    if config.model.functionals in models.STATES_MODELS and config.states.weights:
        resolve_states(config)
    if config.text.tokenizer:
        config.text.tokenizer = subwords.read(config.text.tokenizer)


def resolve_states(config: ConfigDict) -> None:
    """Sets the size of the states and, of words, the tokenizer."""
    encoder = config.states.encoder
    config.states.weights = pretrained.pinned(config.states.weights)
    decided = pretrained.fields(encoder, config.states.weights)
    config.states.width = decided[f"model.{encoder}.width"]
    config.states.depth = 1 + decided[f"model.{encoder}.layers"]
    config.model.layer_sum.layers = len(config.states.layers) or config.states.depth
    if encoder in models.TEXT_ENCODERS:
        config.text.tokenizer = decided["text.tokenizer"]
    elif config.audio.sample_rate_hz != decided["audio.sample_rate_hz"]:
        raise UserError(f"config.audio.sample_rate_hz must be {decided['audio.sample_rate_hz']} for {encoder}'s states")


def takes_states_of_words(config: ConfigDict) -> bool:
    return config.model.functionals in models.STATES_MODELS and config.states.encoder in models.TEXT_ENCODERS


def takes_words(config: ConfigDict) -> bool:
    return bool(config.model.text) or takes_states_of_words(config)


def takes_sound(config: ConfigDict) -> bool:
    return bool(config.model.audio or config.model.functionals) and not takes_states_of_words(config)


def takes_opensmile(config: ConfigDict) -> bool:
    return config.model.functionals == "ridge" and config.functionals.feature_set != "own"


def pretrained_encoders(config: ConfigDict) -> list[str]:
    """Names of the encoders whose published weights the config's model uses."""
    begun = [config.model[kind] for kind, path in config.model.pretrained.items() if path]
    return [config.states.encoder] if config.model.functionals in models.STATES_MODELS else begun


def frontend_of(config: ConfigDict) -> Frontend | None:
    """What makes log-mels, or frames of the waveform, in the compiled step; None where precompute has made them."""
    if config.data.store != "wave" or not config.model.audio:
        return None
    if config.audio.frontend == "waveform":
        return Samples()
    audio = config.audio.to_dict()
    if audio.pop("frontend") != "librosa":
        raise UserError("config.data.store='wave' needs config.audio.frontend='librosa' or 'waveform'")
    if audio.pop("contours"):
        raise UserError("config.data.store='wave' keeps no contours; set config.audio.contours=False or store='logmel'")
    del audio["trim_db"], audio["level"]
    return LogMel(**audio)


def build_model(config: ConfigDict, vocabulary_size: int, classes: int, seed: int | jax.Array) -> nnx.Module:
    """The config's model with random weights; `seed`: or a key made of it, inside a compiled program."""
    if config.audio.contours and not models.takes_contours(config.model.audio or config.model.functionals):
        raise UserError(
            f"config.audio.contours=True: encoder {config.model.audio!r} takes neighbouring channels for neighbouring "
            f"frequencies; choose config.model.audio from: {', '.join(models.CONTOUR_ENCODERS)}"
        )
    return models.build(
        config.model.to_dict(),
        mels=channels(config.audio),
        vocabulary=vocabulary_size + 2,
        classes=classes,
        dtype=config.train.dtype,
        seed=seed,
        frontend=frontend_of(config),
        pcen=pcen_of(config),
        projection=config.train.projection if config.train.contrastive else 0,
        test_time=test_time_of(config),
        functionals=functionals_of(config),
        absent=absent_of(config),
    )


def model_shapes(config: ConfigDict, vocabulary_size: int, classes: int) -> nnx.Module:
    """`build_model` with shapes in the place of arrays: nothing is computed or compiled."""
    return nnx.eval_shape(lambda: build_model(config, vocabulary_size, classes, seed=0))


def drawn_model(config: ConfigDict, vocabulary_size: int, classes: int, seed: int) -> nnx.Module:
    """`build_model`, the same to the last bit, by one program for all seeds and folds instead of many small ones.

    Eagerly on accelerators, where the bits were never compared, and where published weights replace the draws: these
    models have many layers. Eager layers of one shape share a small program; one program for all repeats it for each
    layer, and takes longer to compile.
    """
    if jax.default_backend() != "cpu" or any(config.model.pretrained.values()):
        return build_model(config, vocabulary_size, classes, seed)
    own = config.copy_and_resolve_references()
    # All that `build_model` may read: a search of other fields compiles nothing anew.
    kept = ConfigDict(
        {name: own[name] for name in ("audio", "evaluate", "functionals", "model", "states")}
        | {"data": {"store": own.data.store}}
        | {"train": {name: own.train[name] for name in ("contrastive", "dtype", "projection")}}
    )
    graph = nnx.graphdef(model_shapes(kept, vocabulary_size, classes))
    settings = _Settings(kept.to_json_best_effort(), vocabulary_size, classes, kept)
    return nnx.merge(graph, _drawn(settings, np.uint32(seed)))


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What a model is built of, as a static argument; `fields`, the config as text, stands for it in comparisons."""

    fields: str
    vocabulary_size: int
    classes: int
    config: ConfigDict = dataclasses.field(compare=False)


@functools.partial(jax.jit, static_argnums=0, compiler_options=_DRAWN_WITH)
def _drawn(settings: _Settings, seed: jax.Array) -> Any:
    """The arrays of a model of that seed, uint32 []."""
    key = jax.random.key(seed)
    return nnx.state(build_model(settings.config, settings.vocabulary_size, settings.classes, key))


def functionals_of(config: ConfigDict) -> int:
    """How many numbers describe a clip to the config's closed-form model."""
    if config.model.functionals in models.STATES_MODELS:
        chosen = config.states
        return (len(chosen.layers) or chosen.depth) * states.count(chosen.parts) * chosen.width
    if config.functionals.feature_set != "own":
        from emoflax.features import opensmile_sets

        return opensmile_sets.SETS[config.functionals.feature_set]
    return functionals_count(config.functionals.statistics, config.functionals.kernels)


def pcen_of(config: ConfigDict) -> Pcen | None:
    if not config.model.pcen.time_s or not config.model.audio:
        return None
    if config.audio.frontend != "librosa":
        raise UserError("config.model.pcen is made of dB: it needs config.audio.frontend='librosa'")
    bands, hop_ms = config.audio.mels, config.audio.hop_ms
    return Pcen(bands=bands, hop_ms=hop_ms, **config.model.pcen.to_dict())


def absent_of(config: ConfigDict) -> AbsentBands | None:
    """Of log-mels in dB; the others are as published weights expect them."""
    if not config.model.audio or config.audio.frontend != "librosa" or not config.model.absent_db:
        return None
    return AbsentBands(config.audio.mels, config.model.absent_db)


def test_time_of(config: ConfigDict) -> TestTimeAugmentation | None:
    views = TestTimeAugmentation(tuple(config.evaluate.speeds), tuple(config.evaluate.band_shifts), config.audio.mels)
    return views if views.on else None


def initial_model(
    config: ConfigDict, features: Features, clips: np.ndarray, vocabulary: Sequence[str], seed: int
) -> nnx.Module:
    """The model that training begins with: pretrained weights loaded, normalised by the training clips at `clips`."""
    model = drawn_model(config, len(vocabulary), len(features.corpus.labels), seed)
    for kind, path in config.model.pretrained.items():
        if path:
            pretrained.load(getattr(model, kind), config.model[kind], path)
    if config.model.audio and config.audio.frontend == "librosa":  # the others' scale is that of published weights
        absent = model.absent.of_clip if model.absent else None
        statistics = functools.partial(logmel_statistics, features, clips, model.frontend, absent=absent)
        model.normalise.set(*statistics())
        if pcen := model.pcen:
            model.normalise_pcen.set(*statistics(pcen.alone))
    return model
