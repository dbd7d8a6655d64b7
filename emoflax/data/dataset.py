"""Shards -> rows, grouped by length.

A row is one window of one clip: a clip longer than `max_s` becomes several rows, whose log-probabilities are averaged
in `evaluate`. Rows of similar length share a bucket, a block padded to one width, so that little padding is computed.
Where they fit, rows are placed on the devices once; which rows make up a batch is drawn there (`train.py`), and no step
moves data. Where they do not, batches are streamed from the shards (`stream.py`).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from emoflax.audio.frontend import LogMel
from emoflax.data import stream
from emoflax.data.features import Features
from emoflax.data.rows import Bucket, Padded, Rows, even_batch, round_up
from emoflax.errors import UserError

PAD, UNK = 0, 1  # token ids; the words of the vocabulary follow
WIDTH_MULTIPLE = 8  # bucket widths are rounded up to it: fewer shapes to compile, friendly to vector units


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of clips: on the devices as Buckets, or as Rows, which are streamed.

    Attributes:
      clips: int array of positions in the corpus, one for each clip that the rows belong to.
      row_clips: of each bucket, int [rows], the position of each row's clip in `clips`.
      mesh: the devices that rows and batches are dealt out to; None: there is one.
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


def token_ids(words: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """Words -> int32 ids; a word outside the vocabulary is <unk>."""
    index = {word: i + 2 for i, word in enumerate(vocabulary)}
    return np.array([index.get(word, UNK) for word in words], np.int32)


def window_starts(length: int, width: int) -> list[int]:
    """Starts of windows of at most `width` that cover `length`, evenly spread; one window where it fits."""
    count = max(1, -(-length // width))
    return [round(i * (length - width) / (count - 1)) for i in range(count)] if count > 1 else [0]


@dataclasses.dataclass(frozen=True)
class _Selected(Sequence):
    """The sequences of some clips, of all `kinds` of a clip in a row, each read when it is asked for."""

    features: Features
    kinds: tuple[str, ...]
    positions: np.ndarray
    change: Callable[[np.ndarray], np.ndarray] = np.asarray

    def __len__(self) -> int:
        return len(self.positions) * len(self.kinds)

    def __getitem__(self, place: int) -> np.ndarray:
        clip, kind = divmod(place, len(self.kinds))
        return self.change(self.features.get(self.kinds[kind], self.positions[clip]))


def load(
    features: Features,
    positions: np.ndarray,
    *,
    max_frames: int,
    max_tokens: int,
    vocabulary: Sequence[str],
    batch_size: int,
    buckets: int,
    weights: np.ndarray | None = None,
    frontend: LogMel | None = None,
    mesh: Mesh | None = None,
    resident: str = "yes",
) -> Dataset:
    """Rows of the clips at `positions`.

    Args:
      frontend: what will make log-mels where the features are waveforms.
      weights: float32 [classes], weight of a clip's loss by its label; None: 1.
      mesh, resident: of `from_arrays`.
    """
    positions = features.readable(positions)
    labels = {label: i for i, label in enumerate(features.corpus.labels)}
    clips = [features.corpus.clips[i] for i in positions]
    sounds = scales = functionals = tokens = None
    if features.sounds:
        sounds = _Selected(features, features.sounds, positions)
    if "wave" in features.shards:
        scales = np.array([features.scale(i) for i in positions], np.float32)
    if "functionals" in features.shards:
        functionals = _Selected(features, ("functionals",), positions)
    if "tokens" in features.shards:
        remap = token_ids(features.shards["tokens"].manifest["lexicon"], vocabulary)
        tokens = _Selected(features, ("tokens",), positions, remap.__getitem__)
    dataset = from_arrays(
        sounds, tokens, np.array([labels[clip.label] for clip in clips], np.int32),
        max_frames=max_frames, max_tokens=max_tokens, batch_size=batch_size, buckets=buckets, weights=weights,
        frontend=frontend, scales=scales, speeds=max(1, len(features.sounds)), functionals=functionals, mesh=mesh,
        resident=resident,
    )  # fmt: skip
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
    frontend: LogMel | None = None,
    scales: np.ndarray | None = None,
    speeds: int = 1,
    functionals: Sequence[np.ndarray] | None = None,
    mesh: Mesh | None = None,
    resident: str = "yes",
) -> Dataset:
    """Rows of clips given as log-mels [frames, mels] and token ids [tokens]; training and prediction both come here.

    Where both are given, a clip may lack one of them: its sequence is empty, and the row's length 0.

    Args:
      frontend: None; or what will make log-mels of `sounds`, which then are waveforms [samples], to be multiplied by
        `scales` [clips].
      speeds: how many `sounds` each clip has, in a row, one per speed; each gives rows of its own.
      functionals: [speeds, functionals] of each clip, one row per speed; with neither sounds nor tokens.
      mesh: the devices that rows and batches are dealt out to; None: one.
      resident: whether all rows are placed on the devices, 'yes' or 'no'; 'auto': if they fit (`stream.fits`).
    """
    longest = max_frames * frontend.hop if frontend else max_frames
    if len(labels) == 0:
        raise UserError("there is no clip to put into a batch")
    if resident not in ("auto", "yes", "no"):
        raise UserError(f"config.data.resident={resident!r}; choose 'auto', 'yes' or 'no'")

    def parts(clip: int) -> Iterator[tuple[int, int]]:
        """(sound, its window's start); or (0, row of functionals)."""
        if functionals is not None or sounds is None:
            yield from ((0, row) for row in range(1 if functionals is None else len(functionals[clip])))
            return
        for sound in range(clip * speeds, (clip + 1) * speeds):
            yield from ((sound, start) for start in window_starts(len(sounds[sound]), longest))

    windows = [(clip, *part) for clip in range(len(labels)) for part in parts(clip)]
    clip, heard, start = (np.array(column, np.int32) for column in zip(*windows, strict=True))
    columns = {"clip": clip, "label": labels[clip], "weight": np.ones(len(clip), np.float32)}
    columns["weight"] /= np.bincount(clip)[clip]
    if weights is not None:
        columns["weight"] *= weights[columns["label"]]
    sequences: dict[str, Callable[[int], np.ndarray]] = {}
    sound, length, width = ("wave", "samples", frontend.width) if frontend else ("logmel", "frames", round_up)
    if sounds is not None:
        sequences[sound] = lambda row: sounds[heard[row]][start[row] : start[row] + longest]
        columns[length] = _lengths(sequences[sound], len(clip))
        if frontend:
            columns["scale"] = scales[clip]
    if tokens is not None:
        # A clip without a word is one unknown word, if it has nothing else.
        nothing = np.array([UNK] if sounds is None else [], np.int32)
        sequences["tokens"] = lambda row: tokens[clip[row]][:max_tokens] if len(tokens[clip[row]]) else nothing
        columns["n_tokens"] = _lengths(sequences["tokens"], len(clip))
    if functionals is not None:
        columns["functionals"] = np.stack([functionals[c][row] for c, _, row in windows])
    lengths = columns.get(length, columns.get("n_tokens", np.ones(len(clip), np.int32)))
    groups = _group(lengths, buckets, batch_size)
    widths, of_all = {sound: width, "tokens": round_up}, {sound: length, "tokens": "n_tokens"}

    def rows(group: np.ndarray) -> Rows:
        padded = {
            name: _padded(get, group, widths[name](max(1, int(columns[of_all[name]][group].max())), WIDTH_MULTIPLE))
            for name, get in sequences.items()
        }
        own = {name: column[group] for name, column in columns.items()}
        return Rows(own, padded, even_batch(len(group), batch_size), mesh)

    made = tuple(rows(group) for group in groups)
    if resident == "no" or (resident == "auto" and not stream.fits(sum(rows.nbytes() for rows in made), mesh)):
        placed = made
    else:
        placed = tuple(rows.placed() for rows in made)
    return Dataset(placed, np.arange(len(labels)), tuple(rows.columns["clip"] for rows in made), mesh)


def _lengths(get: Callable[[int], np.ndarray], rows: int) -> np.ndarray:
    return np.array([len(get(row)) for row in range(rows)], np.int32)


def _padded(get: Callable[[int], np.ndarray], group: np.ndarray, width: int) -> Padded:
    """The sequences of a group of rows, filled up to one width."""
    one = get(group[0])
    return Padded(lambda place: get(group[place]), (width, *one.shape[1:]), one.dtype)


def _group(length: np.ndarray, buckets: int, batch_size: int) -> list[np.ndarray]:
    """Row numbers sorted by length in as many equal parts as there are full batches for, `buckets` at most."""
    count = max(1, min(buckets, len(length) // batch_size))
    return [np.sort(part) for part in np.array_split(np.argsort(length, kind="stable"), count)]
