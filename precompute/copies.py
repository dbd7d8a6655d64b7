"""Shards of disturbed copies of a corpus's recordings (`emoflax.features.disturb`): closed-form models learn from them.

Functions of their own, so that features of the recordings themselves do not depend on the code of their copies.
"""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emoflax.audio.channels import channels, functionals_count
from emoflax.data import shards
from emoflax.data.clip import Clip, Corpus
from emoflax.data.shards import Row, ShardSet
from emoflax.precompute import build


def log_mels(
    corpus: Corpus, audio: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any], *, number: int
) -> ShardSet:
    """As `build.log_mels`, of copy `number` of every recording."""
    write = functools.partial(write_log_mel_shard, audio=dict(audio), number=number)
    settings = {**audio, "copy": number, **build.audio_versions(), **build.code_of(write_log_mel_shard)}
    head = build.head_of("logmel", corpus, build.recordings(corpus), settings, precompute)
    return build.from_recordings(corpus, head, write, audio, cache_dir, precompute)


def functionals(
    corpus: Corpus, audio: Mapping[str, Any], wanted: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any],
    *, number: int,
) -> ShardSet:  # fmt: skip
    """As `build.functionals`, of copy `number` of every recording at its own speed: [1, functionals] per clip."""
    kept = {name: audio[name] for name in build.WAVE_FIELDS} | {**wanted, "speeds": [1.0]}
    settings = {**kept, "copy": number, **build.audio_versions(), **build.code_of(write_functionals_shard)}
    head = build.head_of("functionals", corpus, build.recordings(corpus), settings, precompute)
    write = functools.partial(write_functionals_shard, kept=kept, number=number)
    return build.from_recordings(corpus, head, write, audio, cache_dir, precompute)


def write_log_mel_shard(folder: Path, shard: int, clips: Iterable[Clip], audio: Mapping[str, Any], number: int) -> None:
    """Makes one shard: its bytes follow from clips, settings and the copy's number alone."""
    from emoflax.features.disturb import read_copy
    from emoflax.features.log_mel import of_wave

    shaped = {name: audio[name] for name in build.WAVE_FIELDS}
    others = {name: value for name, value in audio.items() if name not in ("trim_db", "level")}

    def row(clip: Clip) -> Row:
        one = read_copy(clip.path, clip.start_s, clip.end_s, number, **shaped)
        return Row(clip.id, of_wave(one.wave, **others), one.digest, conditions=tuple(one.conditions.values()))

    shards.write_shard(folder, shard, build.rows_of(clips, row), (channels(audio),), "<f4")


def write_functionals_shard(
    folder: Path, shard: int, clips: Iterable[Clip], kept: Mapping[str, Any], number: int
) -> None:
    """As `write_log_mel_shard`; kept: the fields that shape a waveform, and the arguments of `functionals.of_wave`."""
    from emoflax.features.disturb import read_copy
    from emoflax.features.functionals import of_wave

    shaped = {name: kept[name] for name in build.WAVE_FIELDS}
    wanted = {name: value for name, value in kept.items() if name not in shaped}

    def row(clip: Clip) -> Row:
        one = read_copy(clip.path, clip.start_s, clip.end_s, number, **shaped)
        values = of_wave(one.wave, shaped["sample_rate_hz"], **wanted)
        return Row(clip.id, values, one.digest, conditions=tuple(one.conditions.values()))

    width = functionals_count(kept["statistics"], kept["kernels"])
    shards.write_shard(folder, shard, build.rows_of(clips, row), (width,), "<f4")
