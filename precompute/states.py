"""States of a pretrained encoder as features: statistics over a clip's time of the output of every layer.

Stored as shards: float32 [1, layers, statistics, width] per clip, of its sound or of its words. The encoder runs on
JAX's default device. A killed run continues after its last finished shard.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from emoflax import fingerprint, models, pretrained
from emoflax.data import shards, subwords
from emoflax.data.clip import Clip, Corpus
from emoflax.data.shards import Failure, Row, ShardSet
from emoflax.errors import UserError
from emoflax.features.states import StateEncoder, front_end, load, token_ids
from emoflax.precompute import build, copies

Read = Callable[[int], np.ndarray]  # place of a clip in its shards -> what the encoder takes of it
_CODE = ("emoflax.models", "emoflax.features", "emoflax.audio", "emoflax.masks")  # the packages that make states
_MADE_BY = ("emoflax.features.states", "emoflax.precompute.build.write_log_mel_shard")  # beside the encoder
# Fields of config.states that states of the sound, and of the words, follow from, beside the weights.
_IDENTITY, _IDENTITY_OF_WORDS = ("encoder", "silence_s", "parts"), ("encoder", "parts")


def layer_states(
    corpus: Corpus, states: Mapping[str, Any], audio: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any],
    copy: int = 0,
) -> ShardSet:  # fmt: skip
    """Every layer's states of a corpus, computed where they are not cached, from log-mels that are cached as well.

    Args:
      corpus: clips with recordings.
      states: the fields of config.states.
      audio: the fields of config.audio, and the speed if it is not 1; all but trim_db, level and speed follow from the
        weights.
      cache_dir: shards go to <cache_dir>/<corpus name>/states-<hash>.
      precompute: the fields of config.precompute.
      copy: number of the recordings' disturbed copies (`copies`); 0: the recordings themselves.

    Raises:
      UserError: no weights, or as `build.log_mels`.
    """
    name, weights = states["encoder"], _weights_of(states)
    own = {field: audio[field] for field in ("trim_db", "level", "speed") if field in audio}
    make = functools.partial(copies.log_mels, number=copy) if copy else build.log_mels
    code = fingerprint.of_modules([*_MADE_BY, models.AUDIO_ENCODERS[name].__module__], within=_CODE)
    if copy:
        own |= {"copy": copy}
        code |= build.code_of(copies.write_log_mel_shard)["code"]
    settings = {
        **{field: states[field] for field in _IDENTITY},
        "weights": pretrained.fingerprint(weights),
        **own,
        **build.audio_versions(),
        "code": code,
    }
    head = build.head_of("states", corpus, build.recordings(corpus), settings, precompute)

    def inputs() -> tuple[ShardSet, Read]:
        logmels = make(corpus, {**audio, **front_end(name, weights)}, cache_dir, precompute)
        return logmels, lambda row: np.asarray(logmels[row])

    return _open_or_compute(corpus, head, states, inputs, cache_dir, precompute)


def word_states(
    corpus: Corpus, states: Mapping[str, Any], text: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any]
) -> ShardSet:
    """As `layer_states`, of the tokens of the clips' transcripts, which are cached as well.

    Args:
      states: the fields of config.states; silence_s plays no part.
      text: the fields of config.text; the tokenizer is that of the weights.

    Raises:
      UserError: no weights, or as `build.tokens`.
    """
    name, weights = states["encoder"], _weights_of(states)
    tokenizer = subwords.read(pretrained.fields(name, weights)["text.tokenizer"])
    tokens = build.tokens(corpus, {**text, "tokenizer": tokenizer}, cache_dir, precompute)
    settings = {
        **{field: states[field] for field in _IDENTITY_OF_WORDS},
        "weights": pretrained.fingerprint(weights),
        "code": {
            **tokens.manifest["settings"]["code"],
            **fingerprint.of_modules([_MADE_BY[0], models.TEXT_ENCODERS[name].__module__], within=_CODE),
        },
    }
    head = build.head_of("states", corpus, [tokens.manifest["fingerprint"]], settings, precompute)

    def inputs() -> tuple[ShardSet, Read]:
        *known, nothing = token_ids([*([token] for token in tokens.manifest["lexicon"]), []], tokenizer)
        ids = np.concatenate(known)
        return tokens, lambda row: ids[tokens[row]] if tokens.lengths[row] else nothing

    return _open_or_compute(corpus, head, states, inputs, cache_dir, precompute)


def _weights_of(states: Mapping[str, Any]) -> str:
    if not states["weights"]:
        raise UserError(
            "config.states.weights is empty; set it to published weights: an openai-whisper name, a file or a folder"
        )
    return states["weights"]


def _open_or_compute(
    corpus: Corpus, head: dict[str, Any], states: Mapping[str, Any], inputs: Callable[[], tuple[ShardSet, Read]],
    cache_dir: str, precompute: Mapping[str, Any],
) -> ShardSet:  # fmt: skip
    """The shards with that head; inputs: makes what the encoder takes, where there are none."""
    folder = build.cache_folder(cache_dir, head)
    if (folder / shards.MANIFEST).exists():
        logging.info("states cache found: %s", folder)
    else:
        given, read = inputs()
        fields = {field: states[field] for field in ("silence_s", "parts", "batch")}
        encoder = load(states["encoder"], states["weights"], **fields)
        _compute(folder, corpus, given, read, encoder, precompute)
        shards.write_manifest(folder, len(build.parts_of(corpus.clips, precompute)), head)
    return build.open_finished(folder, precompute)


def _compute(
    folder: Path, corpus: Corpus, given: ShardSet, read: Read, encoder: StateEncoder, precompute: Mapping[str, Any]
) -> None:
    """Writes the shards that are not there yet; inputs are mapped, and one shard's states are in memory at a time."""
    shards.make_folder(folder)
    with tqdm(total=len(corpus.clips), desc="states", unit="clip", smoothing=0) as bar:
        for number, clips in enumerate(build.parts_of(corpus.clips, precompute)):
            if shards.clips_done(folder, number) != len(clips):
                shards.write_shard(folder, number, _rows(clips, given, read, encoder), encoder.shape, "<f4")
            bar.update(len(clips))


def _rows(clips: Sequence[Clip], given: ShardSet, read: Read, encoder: StateEncoder) -> Iterator[Row | Failure]:
    place = {clip_id: number for number, clip_id in enumerate(given.ids)}
    failures = {failure["id"]: Failure(**failure) for failure in given.failures}
    there = [read(place[clip.id]) for clip in clips if clip.id in place]
    summaries = iter(encoder(there) if there else ())
    for clip in clips:
        if clip.id in place:
            row = place[clip.id]
            conditions = tuple(given.conditions[row].tolist())
            yield Row(clip.id, next(summaries)[None], given.digests[row], conditions=conditions)
        else:
            yield failures[clip.id]
