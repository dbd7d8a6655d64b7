"""Shards -> rows, grouped by length.

A row is one window of one clip: a clip longer than `max_s` becomes several rows, whose log-probabilities are averaged
in `evaluate`. Rows of similar length share a bucket, a block padded to one width, so that little padding is computed.
Where they fit, rows are placed on the devices once; which rows make up a batch is drawn there (`training.epoch`), and
no step moves data. Where they do not, batches are streamed from the shards (`stream`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from emoflax.audio.frontend import Frontend
from emoflax.data import stream
from emoflax.data.features import Features
from emoflax.data.rows import Bucket, Padded, Rows, even_batch, round_up
from emoflax.errors import UserError

PAD, UNK = 0, 1  # token ids; the words of the vocabulary follow
WIDTH_MULTIPLE = 8  # bucket widths are rounded up to it: fewer shapes to compile, friendly to vector units


@dataclasses.dataclass(frozen=True)
class Shapes:
    """How buckets are filled up, so that datasets of about one size have the same shapes and share compiled programs.

    Attributes:
      rows: that arrays on the devices hold a multiple of; it costs memory, never a step.
      frames: that widths of log-mels are rounded up to; more padding is computed.
      even_batches: whether a bucket's batches are of one size as nearly as can be, no larger than the config's; else
        the last one may be nearly empty.
    """

    rows: int = 1
    frames: int = WIDTH_MULTIPLE
    even_batches: bool = True


EXACT = Shapes()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of clips: on the devices as Buckets, or as Rows, which are streamed.

    Attributes:
      clips: int array of positions in the corpus, one for each clip that the rows belong to.
      row_clips: of each bucket, int [rows], the position of each row's clip in `clips`.
      mesh: the devices over which rows and batches are sharded; None: there is one.
    """

    buckets: tuple[Bucket, ...] | tuple[Rows, ...]
    clips: np.ndarray
    row_clips: tuple[np.ndarray, ...]
    mesh: Mesh | None = None

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return sum(bucket.steps for bucket in self.buckets)

    @property
    def streamed(self) -> bool:
        return isinstance(self.buckets[0], Rows)


def class_weights(labels: np.ndarray, classes: int, power: float) -> np.ndarray:
    """float32 [classes], mean 1 over the clips: 1 / frequency to `power`, so at 1 every class weighs the same."""
    weights = np.maximum(np.bincount(labels, minlength=classes), 1.0) ** -power
    return (weights / weights[labels].mean()).astype(np.float32)


def clip_weights(labels: np.ndarray, classes: int, power: float, corpora: Sequence[str] | None = None) -> np.ndarray:
    """float32 [clips], mean 1: weight of each clip's loss.

    Args:
      labels: int [clips].
      power: of `class_weights`.
      corpora: name of each clip's source corpus: every corpus then weighs the same, and within each its classes as
        `power` says. None: no matter where a clip comes from.
    """
    weights = np.empty(len(labels), np.float32)
    names = np.array(corpora if corpora is not None else [""] * len(labels))
    several = np.unique(names)
    for name in several:
        own = names == name
        weights[own] = class_weights(labels[own], classes, power)[labels[own]] * len(labels) / own.sum() / len(several)
    return weights


def token_ids(words: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """Words -> int32 ids; a word outside the vocabulary is <unk>."""
    index = {word: i + 2 for i, word in enumerate(vocabulary)}
    return np.array([index.get(word, UNK) for word in words], np.int32)


def window_starts(length: int, width: int) -> list[int]:
    """Starts of windows of at most `width` that cover `length`, evenly spread; one window where it fits."""
    count = max(1, -(-length // width))
    return [round(i * (length - width) / (count - 1)) for i in range(count)] if count > 1 else [0]


@dataclasses.dataclass(frozen=True)
class Sequences(Sequence):
    """One sequence [length, ...] of every clip, read when it is asked for; lengths are known without reading.

    Attributes:
      read: clip -> its sequence.
      lengths: int32 [clips].
    """

    read: Callable[[int], np.ndarray]
    lengths: np.ndarray

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> "Sequences":
        """Those of arrays in memory, or the same sequences again."""
        if isinstance(arrays, cls):
            return arrays
        return cls(arrays.__getitem__, np.array([len(array) for array in arrays], np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, clip: int) -> np.ndarray:
        return self.read(clip)


def load(
    features: Features,
    positions: np.ndarray,
    *,
    vocabulary: Sequence[str],
    weights: np.ndarray | None = None,
    copies: bool = False,
    **options: Any,
) -> Dataset:
    """Rows of the clips at `positions`.

    Args:
      weights: float32 [clips at `positions`], weight of each clip's loss, see `clip_weights`; None: 1.
      copies: whether every disturbed copy of the clips counts as a clip as well.
      options: of `from_arrays`.
    """
    positions = features.readable(positions)
    kinds = np.repeat([features.sound or "", *(features.copies if copies else ())], len(positions))
    weights = None if weights is None else np.resize(weights, len(kinds))
    positions = np.resize(positions, len(kinds))  # all clips, then all first copies, ...
    labels = {label: i for i, label in enumerate(features.corpus.labels)}
    label = np.array([labels[features.corpus.clips[i].label] for i in positions], np.int32)
    sounds = scales = tokens = None
    if features.sound:
        length = [features.lengths(str(kind), positions[kinds == kind]) for kind in dict.fromkeys(kinds)]
        sounds = Sequences(lambda clip: features.get(str(kinds[clip]), positions[clip]), np.concatenate(length))
    if features.sound == "wave":
        scales = np.array([features.scale(i) for i in positions], np.float32)
    if "tokens" in features.shards:
        ids = token_ids(features.shards["tokens"].manifest["lexicon"], vocabulary)
        tokens = Sequences(
            lambda clip: ids[features.get("tokens", positions[clip])], features.lengths("tokens", positions)
        )
    dataset = from_arrays(sounds, tokens, label, weights=weights, scales=scales, **options)
    return dataclasses.replace(dataset, clips=positions)


def from_arrays(
    sounds: Sequence[np.ndarray] | None,
    tokens: Sequence[np.ndarray] | None,
    labels: np.ndarray,
    *,
    max_frames: int,
    max_tokens: int,
    batch_size: int,
    buckets: int,
    weights: np.ndarray | None = None,
    frontend: Frontend | None = None,
    scales: np.ndarray | None = None,
    mesh: Mesh | None = None,
    resident: str = "yes",
    shapes: Shapes = EXACT,
) -> Dataset:
    """Rows of clips given as log-mels [frames, mels] and token ids [tokens]; training and prediction both come here.

    Where both are given, a clip may lack one of them: its sequence is empty, and the row's length 0.

    Args:
      labels: int32 [clips].
      frontend: None; or what will make log-mels of `sounds`, which then are waveforms [samples], to be multiplied by
        `scales` [clips].
      mesh: the devices over which rows and batches are sharded; None: one.
      resident: whether all rows are placed on the devices, 'yes' or 'no'; 'auto': if they fit (`stream.fits`).

    Raises:
      UserError: there is no clip, or `resident` is none of the three.
    """
    if len(labels) == 0:
        raise UserError("there is no clip to put into a batch")
    if resident not in ("auto", "yes", "no"):
        raise UserError(f"config.data.resident={resident!r}; choose 'auto', 'yes' or 'no'")
    longest = max_frames * frontend.hop if frontend else max_frames
    sounds = None if sounds is None else Sequences.of(sounds)
    clip, start = windows(len(labels), sounds, longest)
    columns = columns_of(clip, labels, weights)
    padded: dict[str, _Padding] = {}
    if sounds is not None:
        sound = _sound(sounds, clip, start, longest, frontend, shapes.frames)
        padded[sound.name] = sound
        if frontend:
            columns["scale"] = scales[clip]
    if tokens is not None:
        padded["tokens"] = _text(Sequences.of(tokens), clip, max_tokens, alone=sounds is None)
    columns |= {kind.length_name: kind.lengths for kind in padded.values()}
    lengths = next(iter(padded.values())).lengths if padded else np.ones(len(clip), np.int32)
    groups = (_group if sounds is not None else _by_width)(lengths, buckets, batch_size)
    batch_sizes = [even_batch(len(group), batch_size) if shapes.even_batches else batch_size for group in groups]
    made = tuple(_rows(columns, padded, *each, mesh) for each in zip(groups, batch_sizes, strict=True))
    stays = resident == "no" or (resident == "auto" and not stream.fits(sum(rows.nbytes() for rows in made), mesh))
    placed = made if stays else tuple(rows.placed(shapes.rows) for rows in made)
    return Dataset(placed, np.arange(len(labels)), tuple(clip[group] for group in groups), mesh)


def _rows(
    columns: Mapping[str, np.ndarray], padded: Mapping[str, "_Padding"], group: np.ndarray, batch_size: int,
    mesh: Mesh | None,
) -> Rows:  # fmt: skip
    """Those of one bucket; group: their numbers among all rows."""
    own = {name: column[group] for name, column in columns.items()}
    return Rows(own, {name: kind.of(group) for name, kind in padded.items()}, batch_size, mesh)


def windows(clips: int, sounds: Sequences | None, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip and start of every row, int32 [rows] each; a clip without a sound is one row."""
    starts = [[0]] * clips if sounds is None else [window_starts(int(length), longest) for length in sounds.lengths]
    clip = np.repeat(np.arange(clips, dtype=np.int32), [len(own) for own in starts])
    return clip, np.concatenate(starts).astype(np.int32)


def columns_of(clip: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> dict[str, np.ndarray]:
    """'label' int32 and 'weight' float32 of every row, [rows]; the rows of a clip share its weight."""
    weight = np.ones(len(clip), np.float32) / np.bincount(clip)[clip]
    if weights is not None:
        weight *= weights[clip]
    return {"label": labels[clip], "weight": weight.astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class _Padding:
    """Sequences of all rows that are padded to one width per bucket.

    Attributes:
      name, length_name: fields of `Batch` that hold the padded arrays and their lengths.
      read: row -> its sequence.
      lengths: int32 [rows].
      width: length of the longest of a bucket -> width of the bucket.
    """

    name: str
    length_name: str
    read: Callable[[int], np.ndarray]
    lengths: np.ndarray
    width: Callable[[int], int]

    def of(self, group: np.ndarray) -> Padded:
        one = self.read(group[0])
        width = self.width(max(1, int(self.lengths[group].max())))
        return Padded(lambda place: self.read(group[place]), (width, *one.shape[1:]), one.dtype)


def _sound(
    sounds: Sequences, clip: np.ndarray, start: np.ndarray, longest: int, frontend: Frontend | None, multiple: int
) -> _Padding:
    def read(row: int) -> np.ndarray:
        return sounds[clip[row]][start[row] : start[row] + longest]

    lengths = np.minimum(sounds.lengths[clip] - start, longest).astype(np.int32)
    if frontend:
        return _Padding("wave", "samples", read, lengths, lambda most: frontend.width(most, multiple))
    return _Padding("logmel", "frames", read, lengths, lambda most: round_up(most, multiple))


def _text(tokens: Sequences, clip: np.ndarray, max_tokens: int, alone: bool) -> _Padding:
    """alone: there is nothing but words; a clip without a word is then one unknown word."""
    nothing = np.array([UNK] if alone else [], np.int32)

    def read(row: int) -> np.ndarray:
        return tokens[clip[row]][:max_tokens] if tokens.lengths[clip[row]] else nothing

    lengths = np.minimum(np.maximum(tokens.lengths[clip], len(nothing)), max_tokens).astype(np.int32)
    return _Padding("tokens", "n_tokens", read, lengths, lambda most: round_up(most, WIDTH_MULTIPLE))


def _group(length: np.ndarray, buckets: int, batch_size: int) -> list[np.ndarray]:
    """Row numbers sorted by length in at most `buckets` parts of a batch or more, each half as large as the one before.

    Few recordings are long: in equal parts, the last one would be twice as wide as most of its rows need. Shares, other
    than the widths with least padding, hardly change from fold to fold, so that folds share compiled programs.
    """
    count = 1
    while count < buckets and len(length) >= batch_size * (2 ** (count + 1) - 1):
        count += 1
    ends = np.cumsum(2.0 ** -np.arange(count))
    cuts = np.round(len(length) * ends[:-1] / ends[-1]).astype(int)
    return [np.sort(part) for part in np.split(np.argsort(length, kind="stable"), cuts)]


def _by_width(length: np.ndarray, buckets: int, batch_size: int) -> list[np.ndarray]:
    """Row numbers in at most `buckets` groups of a batch or more, whose widths are such that least padding is computed.

    Lengths of texts are few and uneven, so equal parts would have the same width several times, each compiled, and the
    last one twice the width that most of its rows need.
    """
    width = -(-length // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    widths, counts = np.unique(width, return_counts=True)
    rows = np.concatenate([[0], np.cumsum(counts)])
    # Of the rows up to each width, in so many groups: (what is computed, the groups' widths).
    cuts: list[tuple[float, tuple[int, ...]]] = [(0, ()), *[(np.inf, ())] * len(widths)]
    for _ in range(buckets):
        tried = [
            [(cuts[n][0] + (rows[end] - rows[n]) * widths[end - 1], (*cuts[n][1], widths[end - 1]))
             for n in range(end) if rows[end] - rows[n] >= batch_size]
            for end in range(1, len(rows))
        ]  # fmt: skip
        cuts = [cuts[0], *(min([cut, *new]) for cut, new in zip(cuts[1:], tried, strict=True))]
    place = np.searchsorted(cuts[-1][1] or widths[-1:], width)
    return [np.flatnonzero(place == number) for number in range(place.max() + 1)]
