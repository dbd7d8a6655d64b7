"""Shards of openSMILE's functionals (`emoflax.features.opensmile_sets`), of recordings and of their disturbed copies.

A module of its own, so that shards of our functionals do not depend on its code, nor these on the code of ours.
"""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emoflax import fingerprint
from emoflax.data import shards
from emoflax.data.clip import Clip, Corpus
from emoflax.data.shards import Row, ShardSet
from emoflax.precompute import build


def functionals(
    corpus: Corpus, audio: Mapping[str, Any], wanted: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any],
    *, number: int = 0,
) -> ShardSet:  # fmt: skip
    """As `build.functionals`, by openSMILE; number: of the recordings' disturbed copies (`copies`), 0: themselves.

    Args:
      wanted: 'feature_set' and 'speeds', the arguments of `opensmile_sets.of_wave`.

    Raises:
      UserError: openSMILE is not installed, or as `build.functionals`.
    """
    from emoflax.features.opensmile_sets import check

    check(audio["sample_rate_hz"], wanted["feature_set"])
    kept = {name: audio[name] for name in build.WAVE_FIELDS}
    kept |= {**wanted, "speeds": [1.0] if number else list(wanted["speeds"])}
    versions = build.audio_versions() | fingerprint.versions("opensmile")
    settings = {**kept, "copy": number, **versions, **build.code_of(write_shard)}
    head = build.head_of("functionals", corpus, build.recordings(corpus), settings, precompute)
    write = functools.partial(write_shard, kept=kept, number=number)
    return build.from_recordings(corpus, head, write, audio, cache_dir, precompute)


def write_shard(folder: Path, shard: int, clips: Iterable[Clip], kept: Mapping[str, Any], number: int) -> None:
    """As `copies.write_functionals_shard`; number 0: the recordings themselves."""
    from emoflax.features import recording
    from emoflax.features.disturb import read_copy
    from emoflax.features.opensmile_sets import SETS, of_wave

    shaped = {name: kept[name] for name in build.WAVE_FIELDS}
    wanted = {name: value for name, value in kept.items() if name not in shaped}

    def row(clip: Clip) -> Row:
        part = (clip.path, clip.start_s, clip.end_s)
        one = read_copy(*part, number, **shaped) if number else recording.read(*part, **shaped)
        values = of_wave(one.wave, shaped["sample_rate_hz"], **wanted)
        return Row(clip.id, values, one.digest, conditions=tuple(one.conditions.values()))

    shards.write_shard(folder, shard, build.rows_of(clips, row), (SETS[kept["feature_set"]],), "<f4")
