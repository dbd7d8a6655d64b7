"""Shards -> rows on the device, grouped by length.

A row is one window of one clip: a clip longer than `max_s` becomes several rows, whose log-probabilities are averaged
in `evaluate`. Rows of similar length share a bucket, a block padded to one width, so that little padding is computed.
Rows are placed on the device once; which rows make up a batch is drawn there (`train.py`), and no step moves data.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from emoflax.clip import Corpus
from emoflax.errors import UserError
from emoflax.frontend import LogMel
from emoflax.shards import ShardSet

PAD, UNK = 0, 1  # token ids; the words of the vocabulary follow
BATCH_MULTIPLE = 4
WIDTH_MULTIPLE = 8  # bucket widths are rounded up to it: fewer shapes to compile, friendly to vector units


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bucket:
    """Rows padded to one width.

    `rows` maps names to arrays: 'logmel' float32 [rows, frames, mels] in dB, 'frames' int32 [rows], 'tokens' int32
    [rows, tokens], 'n_tokens' int32 [rows], 'label' int32 [rows], 'weight' float32 [rows], and 'clip' int32 [rows],
    the position of the row's clip in `Dataset.clips`. In the place of log-mels there may be waveforms: 'wave' int16
    [rows, samples], 'samples' int32 [rows], and 'scale' float32 [rows] to multiply them by. A model of functionals sees
    'functionals' float32 [rows, functionals] and no length. A batch holds `batch_size` rows.
    """

    rows: dict[str, jax.Array]
    batch_size: int = dataclasses.field(metadata={"static": True})

    def __len__(self) -> int:
        return len(self.rows["label"])

    @property
    def steps(self) -> int:
        return -(-len(self) // self.batch_size)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`clips`: int array of positions in the corpus, one for each clip that the buckets' rows belong to."""

    buckets: tuple[Bucket, ...]
    clips: np.ndarray

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return sum(bucket.steps for bucket in self.buckets)


class Features:
    """What precompute made of a corpus: of each kind ('logmel', 'tokens', 'states') one sequence per readable clip."""

    def __init__(self, corpus: Corpus, shards: Mapping[str, ShardSet]):
        self.corpus, self.shards = corpus, dict(shards)
        self._row = {kind: {clip_id: row for row, clip_id in enumerate(s.ids)} for kind, s in self.shards.items()}

    def get(self, kind: str, position: int) -> np.ndarray:
        """The sequence of the clip at `position` in the corpus, [frames, mels] or [tokens], memory-mapped."""
        return self.shards[kind][self._row[kind][self.corpus.clips[position].id]]

    def scale(self, position: int) -> float:
        """What the waveform of the clip at `position` is to be multiplied by."""
        return self.shards["wave"].scales[self._row["wave"][self.corpus.clips[position].id]]

    def readable(self, positions: np.ndarray) -> np.ndarray:
        """Those of `positions` whose clips precompute could read."""
        ids = [self.corpus.clips[i].id for i in positions]
        keep = [all(clip_id in rows for rows in self._row.values()) for clip_id in ids]
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
    return Features(dataclasses.replace(features.corpus, clips=tuple(clips)), features.shards)


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
    for position in train:
        if frontend:
            logmel = frontend.alone(features.get("wave", position), features.scale(position))
        else:
            logmel = features.get("logmel", position)
        if compress:
            logmel = compress(logmel)
        logmel = np.asarray(logmel, np.float64)
        frames, total, squares = frames + len(logmel), total + logmel.sum(0), squares + (logmel**2).sum(0)
    mean = total / frames
    std = np.sqrt(np.maximum(squares / frames - mean**2, 1e-6))
    return mean.astype(np.float32), std.astype(np.float32)


def functionals_rows(features: Features, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Functionals of all speeds of the clips, float32 [rows, functionals], and each row's place in `positions`."""
    rows = [features.get("functionals", position) for position in positions]
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows])


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
) -> Dataset:
    """Places the clips at `positions` on the device.

    Args:
      frontend: what will make log-mels where the features are waveforms.
      weights: float32 [classes], weight of a clip's loss by its label; None: 1.
    """
    positions = features.readable(positions)
    labels = {label: i for i, label in enumerate(features.corpus.labels)}
    clips = [features.corpus.clips[i] for i in positions]
    sounds = scales = functionals = tokens = None
    if "logmel" in features.shards:
        sounds = [features.get("logmel", i) for i in positions]
    if "wave" in features.shards:
        sounds = [features.get("wave", i) for i in positions]
        scales = np.array([features.scale(i) for i in positions], np.float32)
    if "functionals" in features.shards:
        functionals = [features.get("functionals", i) for i in positions]
    if "tokens" in features.shards:
        remap = token_ids(features.shards["tokens"].manifest["lexicon"], vocabulary)
        tokens = [remap[features.get("tokens", i)] for i in positions]
    dataset = from_arrays(
        sounds, tokens, np.array([labels[clip.label] for clip in clips], np.int32),
        max_frames=max_frames, max_tokens=max_tokens, batch_size=batch_size, buckets=buckets, weights=weights,
        frontend=frontend, scales=scales, functionals=functionals,
    )
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
    functionals: Sequence[np.ndarray] | None = None,
) -> Dataset:
    """Rows of clips given as log-mels [frames, mels] and token ids [tokens]; training and prediction both come here.

    Where both are given, a clip may lack one of them: its sequence is empty, and the row's length 0.

    Args:
      frontend: None; or what will make log-mels of `sounds`, which then are waveforms [samples], to be multiplied by
        `scales` [clips].
      functionals: [speeds, functionals] of each clip, one row per speed; with neither sounds nor tokens.
    """
    longest = max_frames * frontend.hop if frontend else max_frames
    if len(labels) == 0:
        raise UserError("there is no clip to put into a batch")

    def starts(clip: int) -> Sequence[int]:
        if functionals is not None:
            return range(len(functionals[clip]))
        return window_starts(len(sounds[clip]), longest) if sounds is not None else [0]

    windows = [(clip, start) for clip in range(len(labels)) for start in starts(clip)]
    clip, start = (np.array(column, np.int32) for column in zip(*windows, strict=True))
    columns = {"clip": clip, "label": labels[clip], "weight": np.ones(len(clip), np.float32)}
    columns["weight"] /= np.bincount(clip)[clip]
    if weights is not None:
        columns["weight"] *= weights[columns["label"]]
    ragged = {}
    sound, length, width = ("wave", "samples", frontend.width) if frontend else ("logmel", "frames", _round_up)
    if sounds is not None:
        ragged[sound] = [sounds[c][s : s + longest] for c, s in windows]
        columns[length] = np.array([len(x) for x in ragged[sound]], np.int32)
        if frontend:
            columns["scale"] = scales[clip]
    if tokens is not None:
        ragged["tokens"] = [tokens[c][:max_tokens] for c in clip]
        if sounds is None:  # a clip without a word is one unknown word: it has nothing else
            ragged["tokens"] = [x if len(x) else np.array([UNK], np.int32) for x in ragged["tokens"]]
        columns["n_tokens"] = np.array([len(x) for x in ragged["tokens"]], np.int32)
    if functionals is not None:
        columns["functionals"] = np.stack([functionals[c][row] for c, row in windows])
    lengths = columns.get(length, columns.get("n_tokens", np.ones(len(clip), np.int32)))
    groups = _group(lengths, buckets, batch_size)
    widths = {sound: width, "tokens": _round_up}
    return Dataset(
        tuple(_bucket(rows, columns, ragged, widths, batch_size) for rows in groups), clips=np.arange(len(labels))
    )


def _group(length: np.ndarray, buckets: int, batch_size: int) -> list[np.ndarray]:
    """Row numbers sorted by length in as many equal parts as there are full batches for, `buckets` at most."""
    count = max(1, min(buckets, len(length) // batch_size))
    return [np.sort(part) for part in np.array_split(np.argsort(length, kind="stable"), count)]


def _bucket(
    rows: np.ndarray,
    columns: Mapping[str, np.ndarray],
    ragged: Mapping[str, Sequence[np.ndarray]],
    widths: Mapping[str, Callable[[int, int], int]],
    batch_size: int,
) -> Bucket:
    arrays = {name: column[rows] for name, column in columns.items()}
    for name, sequences in ragged.items():
        arrays[name] = _pad([sequences[row] for row in rows], widths[name])
    # Equal batches instead of full ones and a small rest; the convolutions work in groups of rows.
    steps = -(-len(rows) // batch_size)
    even = _round_up(-(-len(rows) // steps), BATCH_MULTIPLE)
    return Bucket({name: jax.device_put(array) for name, array in arrays.items()}, min(even, batch_size))


def _pad(sequences: Sequence[np.ndarray], width: Callable[[int, int], int]) -> np.ndarray:
    """[rows, width of the longest, ...] with zeros after each sequence's end."""
    longest = max(1, *(len(sequence) for sequence in sequences))
    padded = np.zeros((len(sequences), width(longest, WIDTH_MULTIPLE), *sequences[0].shape[1:]), sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
