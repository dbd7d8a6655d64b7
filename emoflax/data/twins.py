"""Clips that are one recording: identical samples, or overlapping parts of one file, under whatever names."""

import contextlib
import filecmp
import functools
import hashlib
import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from emoflax.data.clip import Corpus

_SOME_BYTES = 1 << 14


def pairs(corpus: Corpus, positions: Sequence[int] | Mapping, digests: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Pairs of the clips at these positions that are one recording, each pair in the order of `positions`.

    Args:
      digests: clip id -> hash of its decoded samples; clips without one are compared by file alone.

    Links to a file and copies of it count as that file. A file that is not on disk any more is known by its path.
    """
    copies: dict[str, list[int]] = defaultdict(list)
    parts: dict[str, list[int]] = defaultdict(list)
    same_file = _first_names(corpus, positions)
    place = {position: number for number, position in enumerate(positions)}
    for i in positions:
        if digest := digests.get(corpus.clips[i].id):
            copies[digest].append(i)
        if path := corpus.clips[i].path:
            parts[same_file.get(path, path)].append(i)
    identical = {pair for same in copies.values() for pair in itertools.combinations(same, 2)}
    overlapping = {pair for same in parts.values() for pair in _overlapping(corpus, same)}
    for a, b in sorted(identical | overlapping, key=lambda pair: tuple(sorted(map(place.__getitem__, pair)))):
        yield (a, b) if place[a] < place[b] else (b, a)


def _first_names(corpus: Corpus, positions: Iterable[int]) -> dict[str, str]:
    """Path -> the first path of the same bytes, where clips are parts of files; whole files have digests."""
    clips = [corpus.clips[i] for i in positions if corpus.clips[i].path]
    if not any(clip.start_s or clip.end_s is not None for clip in clips):
        return {}
    states: dict[str, os.stat_result] = {}
    for path in sorted({clip.path for clip in clips}):
        with contextlib.suppress(OSError):
            states[path] = os.stat(path)
    files_of_size = Counter(state.st_size for state in states.values())
    first: dict[str, str] = {}
    candidates: dict[str, list[str]] = defaultdict(list)
    for path, state in states.items():
        if files_of_size[state.st_size] == 1:
            continue
        alike = candidates[_some_bytes(path, state.st_size, state.st_mtime_ns)]
        first[path] = next((other for other in alike if _are_equal(other, path)), path)
        if first[path] == path:
            alike.append(path)
    return first


@functools.cache
def _some_bytes(path: str, size: int, changed_ns: int) -> str:
    """Hash of a file's size, first and middle bytes: many corpora have clips of one length, and few have copies."""
    try:
        with open(path, "rb") as file:
            begin = file.read(_SOME_BYTES)
            file.seek(size // 2)
            return hashlib.sha256(b"%d" % size + begin + file.read(_SOME_BYTES)).hexdigest()
    except OSError:
        return path


def _are_equal(one: str, other: str) -> bool:
    """Whether two paths lead to one file or to equal bytes; `filecmp` stops at the first difference."""
    try:
        return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


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
