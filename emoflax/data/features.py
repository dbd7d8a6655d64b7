"""What precompute made of a corpus, and what follows from the training clips' part of it."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np

from emoflax.audio.channels import CONDITIONS
from emoflax.audio.frontend import Frontend
from emoflax.data import speakernorm
from emoflax.data.clip import Corpus
from emoflax.data.joined_shards import JoinedShards
from emoflax.data.shards import ShardSet
from emoflax.parallel import multihost

COPY = "copy"  # that the names of kinds of features of disturbed copies begin with
_NEVER = 1e9  # deviation of a band that no training clip has


class Features:
    """What precompute made of a corpus: of each kind ('logmel', 'tokens', 'states') one sequence per readable clip.

    Log-mels and states of the same clips at other speeds are kinds of their own, 'logmel@0.9'.

    Args:
      own_scale: 'speaker' or 'corpus', whose own scale sounds are put on (`speakernorm`); '': nobody's.
    """

    def __init__(self, corpus: Corpus, shards: Mapping[str, ShardSet | JoinedShards], own_scale: str = ""):
        self.corpus, self.shards, self.own_scale = corpus, dict(shards), own_scale
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
        normalised = self.own_scale and _base(kind) in speakernorm.KINDS
        return self._level(kind, getattr(clip, self.own_scale))(sequence) if normalised else sequence

    def lengths(self, kind: str, positions: np.ndarray) -> np.ndarray:
        """int32 [positions], lengths of the sequences that `get` returns, as the shards' index says."""
        ids = [self.corpus.clips[i].id for i in positions]
        rows = self._row[kind]
        return np.array([self.shards[kind].lengths[rows[i]] if i in rows else 0 for i in ids], np.int32)

    @property
    def sounds(self) -> tuple[str, ...]:
        """Kinds of log-mels or waveforms that there are of each clip: one, or one per speed."""
        return tuple(kind for kind in self.shards if _base(kind) in ("logmel", "wave"))

    @property
    def copies(self) -> tuple[str, ...]:
        """Kinds of features of disturbed copies of each clip, 'copy1', 'copy2', ..., from which models learn alone."""
        return tuple(kind for kind in self.shards if kind.startswith(COPY))

    @property
    def sound(self) -> str | None:
        """'logmel' or 'wave', of which a network's rows are made; None: the network takes words alone."""
        return self.sounds[0] if self.sounds else None

    def _level(self, kind: str, owner: str) -> speakernorm.Level:
        if (kind, owner) not in self._levels:
            own = [clip.id for clip in self.corpus.clips if getattr(clip, self.own_scale) == owner]
            spoken = [self.shards[kind][self._row[kind][clip_id]] for clip_id in own if clip_id in self._row[kind]]
            self._levels[kind, owner] = speakernorm.level_of(spoken)
        return self._levels[kind, owner]

    def scale(self, position: int) -> float:
        """What the waveform of the clip at `position` is to be multiplied by."""
        return self.shards["wave"].scales[self._row["wave"][self.corpus.clips[position].id]]

    def usual_conditions(self, positions: np.ndarray) -> dict[str, list[float]]:
        """Name -> [1st, 99th percentile] of how those clips were recorded (`channels.CONDITIONS`), as far as known."""
        own = next((kind for kind in self.shards if kind in ("logmel", "wave", "functionals", "states")), None)
        measured = [np.full((1, len(CONDITIONS)), np.nan)]
        for kind in (own, *self.copies) if own else ():
            measured.append(self.shards[kind].conditions[[self._row[kind][self.corpus.clips[i].id] for i in positions]])
        every = np.concatenate(measured)
        known = every[np.isfinite(every).all(axis=1)]
        if not len(known):
            return {}
        low, high = np.percentile(known.astype(float), (1, 99), axis=0).round(2).tolist()
        return {name: [a, b] for name, a, b in zip(CONDITIONS, low, high, strict=True)}

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
        for kind, shards in self.shards.items():
            if _base(kind) in ("logmel", "wave", "states", "functionals"):
                found |= dict(zip(shards.ids, shards.digests, strict=True))
        return found

    @property
    def fingerprints(self) -> dict[str, str]:
        """Kind -> hash of what the model sees: settings, clips and their content, wherever the files lie."""
        seen = {
            kind: [s.manifest["settings"], s.manifest.get("lexicon"), s.ids, s.digests, s.lengths.tolist()]
            for kind, s in self.shards.items()
        }
        return {kind: hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16] for kind, parts in seen.items()}


def _base(kind: str) -> str:
    return kind.partition("@")[0]


def permute_labels(features: Features, positions: np.ndarray, seed: int) -> Features:
    """The same features, with the labels of the clips at `positions` shuffled among them: nothing is left to learn."""
    clips = list(features.corpus.clips)
    shuffled = np.random.default_rng([seed, len(positions)]).permutation(positions)
    for here, there in zip(positions, shuffled, strict=True):
        clips[here] = dataclasses.replace(clips[here], label=features.corpus.clips[there].label)
    return Features(dataclasses.replace(features.corpus, clips=tuple(clips)), features.shards, features.own_scale)


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
    frontend: Frontend | None = None,
    compress: Callable[[np.ndarray], np.ndarray] | None = None,
    absent: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each mel band, float32 [mels], over all frames of the training clips alone.

    Args:
      frontend: makes log-mels where the features are waveforms.
      compress: what the model makes of a log-mel [frames, mels] before it normalises them.
      absent: bool [mels], which bands of a log-mel were not recorded, and do not count. One that no training clip has
        gets mean 0 and a deviation under which it will never count.
    """
    frames, total, squares = 0, 0.0, 0.0
    for position in multihost.own_share(train):
        if frontend:
            logmel = frontend.alone(features.get("wave", position), features.scale(position))
        else:
            logmel = features.get("logmel", position)
        there = ~absent(logmel) if absent else np.ones(logmel.shape[1], bool)
        if compress:
            logmel = compress(logmel)
        logmel = np.asarray(logmel, np.float64) * there
        frames, total, squares = frames + len(logmel) * there, total + logmel.sum(0), squares + (logmel**2).sum(0)
    frames, total, squares = multihost.total(np.stack([np.asarray(frames, np.float64) + 0 * total, total, squares]))
    mean = total / np.maximum(frames, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(frames, 1) - mean**2, 1e-6))
    std = np.where(frames > 0, std, _NEVER)
    return mean.astype(np.float32), std.astype(np.float32)


def functionals_rows(
    features: Features, positions: np.ndarray, *, copies: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Functionals of all speeds of the clips, float32 [rows, functionals], and each row's place in `positions`.

    Args:
      copies: whether those of a clip's disturbed copies follow.
    """
    kinds = ("functionals", *features.copies) if copies else ("functionals",)
    rows = [np.concatenate([features.get(kind, position) for kind in kinds]) for position in positions]
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows])


def logmel_rows(
    features: Features, positions: np.ndarray, *, copies: bool = False
) -> tuple[list[np.ndarray], np.ndarray]:
    """Log-mels of all speeds of the clips, [frames, channels] each, and each one's place in `positions`.

    Args:
      copies: whether those of a clip's disturbed copies follow.
    """
    kinds = features.sounds + (features.copies if copies else ())
    rows = [features.get(kind, position) for position in positions for kind in kinds]
    return rows, np.repeat(np.arange(len(positions)), len(kinds))


def states_rows(
    features: Features, positions: np.ndarray, choose: Callable[[np.ndarray], np.ndarray], *, copies: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What `choose` takes of the states [1, layers, statistics, width] of all speeds of the clips, float32 [rows,
    numbers], and each row's place in `positions`; with `copies`, of a clip's disturbed copies as well."""
    kinds = [kind for kind in features.shards if _base(kind) == "states" or (copies and kind in features.copies)]
    rows = [choose(features.get(kind, position)) for position in positions for kind in kinds]
    return np.concatenate(rows), np.repeat(np.arange(len(positions)), len(kinds))
