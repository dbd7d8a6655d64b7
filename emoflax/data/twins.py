"""Clips that are one recording: identical samples, or overlapping parts of one file."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from emoflax.data.clip import Corpus


def pairs(corpus: Corpus, positions: Sequence[int] | Mapping, digests: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Pairs of the clips at these positions that are one recording, each pair in the order of `positions`.

    Args:
      digests: clip id -> hash of its decoded samples; clips without one are compared by file alone.
    """
    copies: dict[str, list[int]] = defaultdict(list)
    parts: dict[str, list[int]] = defaultdict(list)
    place = {position: number for number, position in enumerate(positions)}
    for i in positions:
        if digest := digests.get(corpus.clips[i].id):
            copies[digest].append(i)
        if path := corpus.clips[i].path:
            parts[path].append(i)
    identical = {pair for same in copies.values() for pair in itertools.combinations(same, 2)}
    overlapping = {pair for same in parts.values() for pair in _overlapping(corpus, same)}
    for a, b in sorted(identical | overlapping, key=lambda pair: tuple(sorted(map(place.__getitem__, pair)))):
        yield (a, b) if place[a] < place[b] else (b, a)


def _overlapping(corpus: Corpus, same: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of parts of one file that have a moment in common; they are tried in the order of their beginnings."""
    order = sorted(same, key=lambda i: corpus.clips[i].start_s)
    for number, i in enumerate(order):
        end_s = corpus.clips[i].end_s
        for j in order[number + 1 :]:
            if corpus.clips[j].start_s >= (math.inf if end_s is None else end_s):
                break
            yield (i, j) if same.index(i) < same.index(j) else (j, i)


def sentence(training: int, dev: int) -> str:
    """Says that so many clips of training and of dev were left out, since they are in a later part, too."""
    counts = [f"{count} {name}" for name, count in (("training", training), ("dev", dev)) if count]
    return (
        f"{' and '.join(counts)} clips are left out: they are the same recordings as dev or test clips (identical "
        "samples, or overlapping parts of one file)"
    )
