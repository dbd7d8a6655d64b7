"""A config's features, and the rows that a model is trained or scored on."""

import math

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from emoflax import models
from emoflax.data import dataset as data
from emoflax.data import speakernorm, subwords
from emoflax.data.clip import Corpus
from emoflax.data.dataset import Dataset
from emoflax.data.features import COPY, Features, build_vocabulary
from emoflax.data.joined_shards import JoinedShards, of_sources
from emoflax.data.shards import ShardSet
from emoflax.errors import UserError
from emoflax.experiment import closed_form
from emoflax.experiment.model import frontend_of, takes_sound, takes_states_of_words, takes_words

# A step's program takes long to compile and runs often: folds share it, and hardly anything but clips is computed. Dev
# and test clips share the one that scores.
TRAINED = data.Shapes(rows=512)
SCORED = data.Shapes(rows=256, frames=32, even_batches=False)


def features_of(config: ConfigDict, corpus: Corpus) -> Features:
    """Opens the shards that the model needs, computing what is missing."""
    # Audio libraries come with it; a session that never gets here does not pay for them.
    from emoflax.precompute import build, opensmile_sets

    precompute, cache_dir = config.precompute.to_dict(), config.data.cache_dir
    suffix, shards = speakernorm.suffix_of(config.split.protocol), {}
    if suffix:
        check_own_scale(config)
    if config.model.audio:
        if not corpus.has_audio:
            raise UserError(f"config.model.audio={config.model.audio!r}, but corpus {corpus.name} has no recordings")
        if config.data.store not in ("logmel", "wave"):
            raise UserError(f"config.data.store={config.data.store!r}; choose 'logmel' or 'wave'")
        compute = build.waves if config.data.store == "wave" else build.log_mels
        shards[config.data.store] = of_sources(
            corpus, lambda source: compute(source, config.audio.to_dict(), cache_dir, precompute)
        )
    if config.model.functionals:
        closed_form.check(config)
    if config.model.functionals in models.FRAME_LEVEL_MODELS:
        for speed, audio in closed_form.audio_of_speeds(config).items():
            kind = f"logmel@{speed:g}" if shards else "logmel"
            shards[kind] = of_sources(
                corpus, lambda source, audio=audio: build.log_mels(source, audio, cache_dir, precompute)
            )
    elif takes_states_of_words(config):
        shards["states"] = states_of(config, corpus, {})
    elif config.model.functionals in models.STATES_MODELS:
        for speed, audio in closed_form.audio_of_speeds(config).items():
            shards["states" if speed == 1 else f"states@{speed:g}"] = states_of(config, corpus, audio)
    elif config.model.functionals:
        fields = (config.audio.to_dict(), closed_form.functionals_of(config), cache_dir, precompute)
        make = build if config.functionals.feature_set == "own" else opensmile_sets
        shards["functionals"] = of_sources(corpus, lambda source: make.functionals(source, *fields))
    if takes_sound(config):
        shards |= {f"{COPY}{n}": copies_of(config, corpus, n) for n in range(1, config.data.copies + 1)}
    if takes_words(config):
        shards["tokens"] = build.tokens(corpus, config.text.to_dict(), cache_dir, precompute)
    return Features(corpus, shards, speakernorm.SUFFIXES.get(suffix, ""))


def states_of(config: ConfigDict, corpus: Corpus, audio: dict, copy: int = 0) -> ShardSet | JoinedShards:
    """States of the config's pretrained encoder; audio: the fields of config.audio, and the speed; unused for words."""
    from emoflax.precompute import states  # audio libraries come with it

    last = config.data.cache_dir, config.precompute.to_dict()
    if config.states.encoder in models.TEXT_ENCODERS:
        return states.word_states(corpus, config.states.to_dict(), config.text.to_dict(), *last)
    fields = (config.states.to_dict(), audio, *last)
    return of_sources(corpus, lambda source: states.layer_states(source, *fields, copy=copy))


def copies_of(config: ConfigDict, corpus: Corpus, number: int) -> ShardSet | JoinedShards:
    """Features of one disturbed copy of every clip, as the config's model takes them; at its own speed alone."""
    from emoflax.precompute import copies, opensmile_sets

    audio, last = config.audio.to_dict(), (config.data.cache_dir, config.precompute.to_dict())
    if config.model.functionals in models.STATES_MODELS:
        return states_of(config, corpus, audio, number)
    if config.model.audio or config.model.functionals in models.FRAME_LEVEL_MODELS:
        return of_sources(corpus, lambda source: copies.log_mels(source, audio, *last, number=number))
    wanted = closed_form.functionals_of(config)
    make = copies if config.functionals.feature_set == "own" else opensmile_sets
    return of_sources(corpus, lambda source: make.functionals(source, audio, wanted, *last, number=number))


def check_own_scale(config: ConfigDict) -> None:
    if not takes_sound(config):
        raise UserError(f"config.split.protocol={config.split.protocol!r} normalises sounds; this model takes none")
    if config.model.audio and (config.data.store != "logmel" or config.audio.frontend != "librosa"):
        raise UserError(
            f"config.split.protocol={config.split.protocol!r} needs config.data.store='logmel' and "
            "config.audio.frontend='librosa': it changes the scale that others expect"
        )


def max_frames(config: ConfigDict) -> int:
    return math.ceil(config.data.max_s * 1000 / config.audio.hop_ms)


def vocabulary_of(config: ConfigDict, features: Features, train: np.ndarray) -> tuple[str, ...]:
    """All tokens of the tokenizer, where there is one; else the words of the training clips."""
    if not config.model.text:
        return ()
    if config.text.tokenizer:
        return subwords.vocabulary(config.text.tokenizer)
    return build_vocabulary(features, train, config.text.min_count)


def dataset_of(
    config: ConfigDict, features: Features, positions: np.ndarray, vocabulary, weights=None, mesh: Mesh | None = None,
    *, train: bool = False,
) -> Dataset:  # fmt: skip
    """Rows of the clips; `train`: to learn from, so that the clips' disturbed copies are among them."""
    return data.load(
        features,
        positions,
        max_frames=max_frames(config),
        max_tokens=config.text.max_tokens,
        vocabulary=vocabulary,
        batch_size=config.train.batch_size,
        buckets=config.data.buckets,
        weights=weights,
        frontend=frontend_of(config),
        mesh=mesh,
        resident=config.data.resident,
        shapes=TRAINED if train else SCORED,
        copies=train,
    )
