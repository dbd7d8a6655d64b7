"""States of a pretrained encoder as features: statistics over a clip's time of the output of every layer.

Stored as shards: float32 [1, layers, statistics, width] per clip. The encoder runs on JAX's default device. A killed
run continues after its last finished shard.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from emoflax import fingerprint, models, pretrained
from emoflax.data import shards
from emoflax.data.clip import Clip, Corpus
from emoflax.data.shards import Failure, Row, ShardSet
from emoflax.errors import UserError
from emoflax.features.states import StateEncoder, front_end, load
from emoflax.precompute import build, copies

_CODE = ("emoflax.models", "emoflax.features", "emoflax.audio", "emoflax.masks")  # the packages that make states
_MADE_BY = ("emoflax.features.states", "emoflax.precompute.build.write_log_mel_shard")  # beside the encoder
_IDENTITY = ("encoder", "silence_s", "parts")  # fields of config.states that states follow from, beside the weights


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
    name, weights = states["encoder"], states["weights"]
    if not weights:
        raise UserError(
            "config.states.weights is empty; set it to published weights: an openai-whisper name, a file or a folder"
        )
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
    folder = build.cache_folder(cache_dir, head)
    if (folder / shards.MANIFEST).exists():
        logging.info("states cache found: %s", folder)
    else:
        logmels = make(corpus, {**audio, **front_end(name, weights)}, cache_dir, precompute)
        encoder = load(name, weights, **{field: states[field] for field in ("silence_s", "parts", "batch")})
        _compute(folder, corpus, logmels, encoder, precompute)
        shards.write_manifest(folder, len(build.parts_of(corpus.clips, precompute)), head)
    return build.open_finished(folder, precompute)


def _compute(
    folder: Path, corpus: Corpus, logmels: ShardSet, encoder: StateEncoder, precompute: Mapping[str, Any]
) -> None:
    """Writes the shards that are not there yet; log-mels are mapped, and one shard's states are in memory at a time."""
    shards.make_folder(folder)
    with tqdm(total=len(corpus.clips), desc="states", unit="clip", smoothing=0) as bar:
        for number, clips in enumerate(build.parts_of(corpus.clips, precompute)):
            if shards.clips_done(folder, number) != len(clips):
                shards.write_shard(folder, number, _rows(clips, logmels, encoder), encoder.shape, "<f4")
            bar.update(len(clips))


def _rows(clips: Sequence[Clip], logmels: ShardSet, encoder: StateEncoder) -> Iterator[Row | Failure]:
    place = {clip_id: number for number, clip_id in enumerate(logmels.ids)}
    failures = {failure["id"]: Failure(**failure) for failure in logmels.failures}
    there = [np.asarray(logmels[place[clip.id]]) for clip in clips if clip.id in place]
    summaries = iter(encoder(there) if there else ())
    for clip in clips:
        if clip.id in place:
            row = place[clip.id]
            conditions = tuple(logmels.conditions[row].tolist())
            yield Row(clip.id, next(summaries)[None], logmels.digests[row], conditions=conditions)
        else:
            yield failures[clip.id]
