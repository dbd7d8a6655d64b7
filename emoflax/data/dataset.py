"""Shards -> rows, grouped by length.

A row is one window of one clip: a clip longer than `max_s` becomes several rows, whose log-probabilities are averaged
in `evaluate`. Rows of similar length share a bucket, a block padded to one width, so that little padding is computed.
Where they fit, rows are placed on the devices once; which rows make up a batch is drawn there (`train.py`), and no step
moves data. Where they do not, batches are streamed from the shards (`stream.py`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from emoflax.parallel import multihost
from emoflax.data import speakernorm, stream
from emoflax.data.clip import Corpus
from emoflax.errors import UserError
from emoflax.audio.frontend import LogMel
from emoflax.data.rows import Bucket, Padded, Rows, even_batch, round_up
from emoflax.data.shards import ShardSet

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


class Features:
    """What precompute made of a corpus: of each kind ('logmel', 'tokens', 'states') one sequence per readable clip.

    Log-mels of the same clips at other speeds are kinds of their own, 'logmel@0.9'.

    Args:
      by_speaker: whether sounds are put on a scale of their speaker's own (`speakernorm`).
    """

    def __init__(self, corpus: Corpus, shards: Mapping[str, ShardSet], by_speaker: bool = False):
        self.corpus, self.shards, self.by_speaker = corpus, dict(shards), by_speaker
        self._levels: dict[tuple[str, str], speakernorm.Level] = {}
        self._row = {kind: {clip_id: row for row, clip_id in enumerate(s.ids)} for kind, s in self.shards.items()}

    def get(self, kind: str, position: int) -> np.ndarray:
        """The sequence of the clip at `position` in the corpus, [frames, mels] or [tokens], memory-mapped if it can be.

        A clip that nobody could transcribe has no tokens.
        """
        clip = self.corpus.clips[position]
        if kind == "tokens" and clip.id not in self._row[kind]:
            return np.zeros(0, np.int32)
        sequence = self.shards[kind][self._row[kind][clip.id]]
        return self._level(kind, clip.speaker)(sequence) if self.by_speaker and kind in speakernorm.KINDS else sequence

    @property
    def sounds(self) -> tuple[str, ...]:
        """Kinds of log-mels or waveforms that there are of each clip: one, or one per speed."""
        return tuple(kind for kind in self.shards if kind.partition("@")[0] in ("logmel", "wave"))

    def _level(self, kind: str, speaker: str) -> speakernorm.Level:
        if (kind, speaker) not in self._levels:
            ids = [clip.id for clip in self.corpus.clips if clip.speaker == speaker and clip.id in self._row[kind]]
            spoken = [self.shards[kind][self._row[kind][clip_id]] for clip_id in ids]
            self._levels[kind, speaker] = speakernorm.level_of(spoken)
        return self._levels[kind, speaker]

    def scale(self, position: int) -> float:
        """What the waveform of the clip at `position` is to be multiplied by."""
        return self.shards["wave"].scales[self._row["wave"][self.corpus.clips[position].id]]

    def readable(self, positions: np.ndarray) -> np.ndarray:
        """Those of `positions` whose clips precompute could read; beside a sound, words may be missing."""
        ids = [self.corpus.clips[i].id for i in positions]
        needed = [rows for kind, rows in self._row.items() if kind != "tokens" or len(self._row) == 1]
        keep = [all(clip_id in rows for rows in needed) for clip_id in ids]
        return np.asarray(positions, int)[np.array(keep, bool)]

    @property
    def digests(self) -> dict[str, str]:
        """Clip id -> hash of its decoded samples; empty for a text-only corpus."""
        found = {}
        for kind in self.shards.keys() & {"logmel", "wave", "states", "functionals"}:
            found |= dict(zip(self.shards[kind].ids, self.shards[kind].digests, strict=True))
        return found

    @property
    def fingerprints(self) -> dict[str, str]:
        """Kind -> hash of what the model sees: settings, clips and their content, wherever the files lie."""
        seen = {
            kind: [s.manifest["settings"], s.manifest.get("lexicon"), s.ids, s.digests, s.lengths.tolist()]
            for kind, s in self.shards.items()
        }
        return {kind: hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16] for kind, parts in seen.items()}


def permute_labels(features: Features, positions: np.ndarray, seed: int) -> Features:
    """The same features, with the labels of the clips at `positions` shuffled among them: nothing is left to learn."""
    clips = list(features.corpus.clips)
    shuffled = np.random.default_rng([seed, len(positions)]).permutation(positions)
    for here, there in zip(positions, shuffled, strict=True):
        clips[here] = dataclasses.replace(clips[here], label=features.corpus.clips[there].label)
    return Features(dataclasses.replace(features.corpus, clips=tuple(clips)), features.shards, features.by_speaker)


def build_vocabulary(features: Features, train: np.ndarray, min_count: int) -> tuple[str, ...]:
    """Words of the training clips that occur at least `min_count` times, sorted; word i has token id i + 2."""
    lexicon = features.shards["tokens"].manifest["lexicon"]
    counts = np.zeros(len(lexicon), np.int64)
    for position in train:
        np.add.at(counts, features.get("tokens", position), 1)
    return tuple(word for word, count in zip(lexicon, counts, strict=True) if count >= min_count)


def logmel_statistics(
    features: Features,
    train: np.ndarray,
    frontend: LogMel | None = None,
    compress: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each mel band, float32 [mels], over all frames of the training clips alone.

    Args:
      frontend: makes log-mels where the features are waveforms.
      compress: what the model makes of a log-mel [frames, mels] before it normalises them.
    """
    frames, total, squares = 0, 0.0, 0.0
    for position in multihost.own_share(train):
        if frontend:
            logmel = frontend.alone(features.get("wave", position), features.scale(position))
        else:
            logmel = features.get("logmel", position)
        if compress:
            logmel = compress(logmel)
        logmel = np.asarray(logmel, np.float64)
        frames, total, squares = frames + len(logmel), total + logmel.sum(0), squares + (logmel**2).sum(0)
    frames, total, squares = multihost.total(np.stack([np.full_like(total, frames), total, squares]))
    mean = total / frames
    std = np.sqrt(np.maximum(squares / frames - mean**2, 1e-6))
    return mean.astype(np.float32), std.astype(np.float32)


def functionals_rows(features: Features, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Functionals of all speeds of the clips, float32 [rows, functionals], and each row's place in `positions`."""
    rows = [features.get("functionals", position) for position in positions]
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows])


def logmel_rows(features: Features, positions: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Log-mels of all speeds of the clips, [frames, channels] each, and each one's place in `positions`."""
    rows = [features.get(kind, position) for position in positions for kind in features.sounds]
    return rows, np.repeat(np.arange(len(positions)), len(features.sounds))


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
