"""Clips that are one recording: identical samples, or overlapping parts of one file, under whatever names."""

import contextlib
import functools
import hashlib
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from emoflax.data.clip import Corpus
from emoflax.files import sha256

_SOME_BYTES = 1 << 14


def pairs(corpus: Corpus, positions: Sequence[int] | Mapping, digests: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Pairs of the clips at these positions that are one recording, each pair in the order of `positions`.

    Args:
      digests: clip id -> hash of its decoded samples; clips without one are compared by file alone.

    A file may be there under several names: links, and copies of all its bytes. Where it is not on disk any more, its
    path is its only name.
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
    """Path -> the first path of the same file, of the corpus's files that clips are parts of, and of their likes.

    Files of whole clips have digests of their own. Of the others those of equal size are read, once in a process.
    """
    clips = [corpus.clips[i] for i in positions if corpus.clips[i].path]
    cut = {clip.path for clip in clips if clip.start_s or clip.end_s is not None}
    if not cut:
        return {}
    by_size: dict[int, dict[tuple[int, int, int], list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted({clip.path for clip in clips}):
        with contextlib.suppress(OSError):
            state = os.stat(path)
            by_size[state.st_size][state.st_dev, state.st_ino, state.st_mtime_ns].append(path)
    first: dict[str, str] = {}
    for files in by_size.values():
        compare = len(files) > 1 and not cut.isdisjoint(itertools.chain.from_iterable(files.values()))
        alike: dict[str, list[tuple[tuple[int, int, int], list[str]]]] = defaultdict(list)
        for state, names in files.items():
            alike[_some_bytes(names[0], state[-1]) if compare else names[0]].append((state, names))
        for group in alike.values():
            of_content: dict[str, str] = {}
            for (_, _, changed_ns), names in group:
                content = _content(names[0], changed_ns) if len(group) > 1 else names[0]
                first |= dict.fromkeys(names, of_content.setdefault(content, names[0]))
    return first


@functools.cache
def _some_bytes(path: str, changed_ns: int) -> str:
    """Hash of a file's first and middle bytes: many corpora have clips of one length, and few have copies."""
    try:
        with open(path, "rb") as file:
            begin = file.read(_SOME_BYTES)
            file.seek(os.fstat(file.fileno()).st_size // 2)
            return hashlib.sha256(begin + file.read(_SOME_BYTES)).hexdigest()
    except OSError:
        return path


@functools.cache
def _content(path: str, changed_ns: int) -> str:
    """Hash of a file's bytes; of one that cannot be read, its path."""
    try:
        return sha256(path)
    except OSError:
        return path


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
