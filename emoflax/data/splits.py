"""Named protocols: which clips train, which choose the epoch, which are scored once at the end.

Indices are positions in `corpus.clips`. `check_leakage` refuses a speaker or an identical recording in two parts of an
actor-disjoint split.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from emoflax.data import speakernorm
from emoflax.data.clip import Corpus
from emoflax.errors import UserError

# Test actors of each fold. EmoBox (Ma et al. 2024) and Luna-Jimenez et al. (2021, 2022).
RAVDESS_FOLDS = {
    "emobox6": ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22)),
    "luna5": ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22)),
}
RANDOM_PROTOCOLS = {"random_split": 1, "random5": 5}  # number of folds; speakers are shared
PROTOCOLS = (*RAVDESS_FOLDS, "loso24", "loso", "speakers5", *RANDOM_PROTOCOLS, "given", "meld", "lists")
EVERYONE = "everyone"  # the protocol's name of `everyone`, which nobody can choose
SPLIT_RNG = 2018  # seed of which speakers or clips share a fold; a run's seed never changes the split
_LISTED_PAIRS = 20  # of identical recordings, in a warning
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # places of the training, dev and test clips


@dataclasses.dataclass(frozen=True)
class Split:
    """One fold. `train`, `dev` and `test` are sorted int arrays of positions in `corpus.clips`; dev may be empty."""

    protocol: str
    fold: int
    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    shares_speakers: bool

    @property
    def note(self) -> str:
        """Description of the protocol in every report."""
        note = "actor-disjoint: no test speaker is in training"
        if self.shares_speakers:
            note = "speakers are SHARED between train and test: not comparable with actor-disjoint results"
        return f"{note}; {speakernorm.NOTE}" if by_speaker(self.protocol) else note


def resolve_protocol(protocol: str, corpus: Corpus) -> str:
    """'auto' -> a name from PROTOCOLS that fits the corpus; the suffix '+speakernorm' is kept.

    Raises:
      UserError: a name that does not exist.
    """
    base = base_of(protocol)
    if base == "auto":
        base = _default_protocol(corpus)
    if base not in PROTOCOLS:
        raise UserError(
            f"config.split.protocol={protocol!r} does not exist; choose: auto, {', '.join(PROTOCOLS)}, or one of them "
            f"followed by {speakernorm.SUFFIX}"
        )
    return base + protocol[len(base_of(protocol)) :]


def base_of(protocol: str) -> str:
    """The protocol without the suffix '+speakernorm': it defines the clips of train, dev and test."""
    return protocol.removesuffix(speakernorm.SUFFIX)


def by_speaker(protocol: str) -> bool:
    """Whether each speaker's features are normalised by that speaker's own mean and deviation."""
    return protocol.endswith(speakernorm.SUFFIX)


def _default_protocol(corpus: Corpus) -> str:
    if corpus.name == "ravdess":
        return "emobox6"
    if any(clip.split for clip in corpus.clips):
        return "meld" if corpus.name == "meld" else "given"
    return "speakers5" if len(corpus.speakers) >= 5 else "loso"


def count_folds(protocol: str, corpus: Corpus) -> int:
    protocol = base_of(protocol)
    if protocol in RAVDESS_FOLDS:
        return len(RAVDESS_FOLDS[protocol])
    if protocol in ("loso", "loso24"):
        return len(corpus.speakers)
    return {"speakers5": 5, **RANDOM_PROTOCOLS}.get(protocol, 1)


def parse_folds(fold: str, protocol: str, corpus: Corpus) -> tuple[int, ...]:
    """'all' or '3' -> fold numbers, counted from 1."""
    folds = count_folds(protocol, corpus)
    if str(fold) == "all":
        return tuple(range(1, folds + 1))
    if not str(fold).isdigit() or not 1 <= int(fold) <= folds:
        raise UserError(f"config.split.fold={fold!r}: protocol {protocol} has folds 1 to {folds}, or 'all'")
    return (int(fold),)


def make_split(corpus: Corpus, protocol: str, fold: int, dev_share: float, lists: Mapping[str, Sequence[str]]) -> Split:
    """The clips of one fold.

    Args:
      protocol: a name that `resolve_protocol` returned.
      fold: counted from 1.
      dev_share: part of the training speakers (random protocols: of the training clips) that chooses the epoch.
      lists: speakers of 'train', 'dev' and 'test', used by protocol 'lists' only.

    Raises:
      UserError: the corpus does not have what the protocol needs.
    """
    base = base_of(protocol)
    if base in RANDOM_PROTOCOLS:
        train, dev, test = _random(corpus, fold, dev_share)
    elif base in ("given", "meld"):
        train, dev, test = _given(corpus, dev_share)
    elif base == "lists":
        train, dev, test = _listed(corpus, dev_share, lists)
    else:
        train, dev, test = _by_speakers(corpus, _test_speakers(corpus, base, fold), dev_share)
    shared = _speakers(corpus, test) & (_speakers(corpus, train) | _speakers(corpus, dev))
    split = Split(protocol, fold, train, dev, test, shares_speakers=bool(shared))
    for name, part in (("training", train), ("test", test)):
        if len(part) == 0:
            raise UserError(f"protocol {protocol}, fold {fold}: the {name} part of corpus {corpus.name} has no clip")
    if missing := sorted((_labels(corpus, test) | _labels(corpus, dev)) - _labels(corpus, train)):
        raise UserError(
            f"protocol {protocol}, fold {fold}: no training clip has the label {', '.join(missing)}, "
            "which dev or test clips have; record it with more speakers or choose another split"
        )
    return split


def everyone(corpus: Corpus, protocol: str) -> Split:
    """The split of a model to keep: all clips train, none is left for a score.

    Args:
      protocol: of the scores that belong to it; '+speakernorm' is kept.
    """
    none = np.array([], int)
    return Split(EVERYONE + protocol[len(base_of(protocol)) :], 1, np.arange(len(corpus.clips)), none, none, False)


def nest(split: Split) -> tuple[Split, Split]:
    """(inner, outer): the inner split, for choices, without test clips; the fold, trained on train and dev together.

    Raises:
      UserError: the split has no inner validation speakers.
    """
    if len(split.dev) == 0:
        raise UserError("nested evaluation needs inner validation speakers: set config.crossval.inner_share above 0")
    none = np.array([], int)
    inner = dataclasses.replace(split, test=none)
    return inner, dataclasses.replace(split, train=np.sort(np.concatenate([split.train, split.dev])), dev=none)


def check_leakage(split: Split, corpus: Corpus, digests: Mapping[str, str]) -> None:
    """Refuses an actor-disjoint split with a speaker, or one recording's exact samples, in two of its parts.

    Identical recordings of two speakers within one part, and dev speakers of a given split that train as well, are
    warned of.

    Args:
      digests: clip id -> hash of its decoded samples (empty where unknown, as in a text-only corpus).

    Raises:
      UserError: naming the speakers or the clips.
    """
    parts = {"training": split.train, "dev": split.dev, "test": split.test}
    speakers = {name: _speakers(corpus, part) for name, part in parts.items()}
    shared = {pair: speakers[pair[0]] & speakers[pair[1]] for pair in itertools.combinations(parts, 2)}
    if base_of(split.protocol) not in (*RANDOM_PROTOCOLS, "given", "meld"):
        for (one, other), both in shared.items():
            if both:
                raise UserError(
                    f"protocol {split.protocol}: speakers {', '.join(sorted(both))} are in {one} and in {other}"
                )
    if split.shares_speakers:
        return
    if both := shared["training", "dev"]:
        logging.warning(
            "protocol %s: the epoch is chosen on speakers who train as well (%s); for dev clips of other speakers fill "
            "the corpus's split column accordingly", split.protocol, ", ".join(sorted(both)),
        )  # fmt: skip
    part_of = {i: name for name, part in parts.items() for i in part}
    pairs = _identical(corpus, part_of, digests)
    crossing = {pair: [(a, b) for a, b in pairs if (part_of[a], part_of[b]) == pair] for pair in shared}
    for (one, other), doubles in crossing.items():
        if doubles and not shared[one, other]:
            first, second = (corpus.clips[i].id for i in doubles[0])
            raise UserError(
                f"fold {split.fold} of {split.protocol}: {len(doubles)} {other} recordings are also {one} recordings "
                f"under another speaker's name, e.g. {second} = {first}; remove one of each pair from the corpus"
            )
    named_twice = [pair for pair in pairs if len({corpus.clips[i].speaker for i in pair}) == 2]
    if named_twice:
        listed = "; ".join(f"{corpus.clips[a].id} = {corpus.clips[b].id}" for a, b in named_twice[:_LISTED_PAIRS])
        logging.warning(
            "fold %d of %s: %d pairs of identical recordings have two speakers' names, so these may be one person and "
            "the split not actor-disjoint: %s%s", split.fold, split.protocol, len(named_twice), listed,
            " ..." if len(named_twice) > _LISTED_PAIRS else "",
        )  # fmt: skip


def _identical(corpus: Corpus, part_of: Mapping[int, str], digests: Mapping[str, str]) -> list[tuple[int, int]]:
    """Pairs of clips with the same samples, each in the order of `part_of`."""
    copies: dict[str, list[int]] = defaultdict(list)
    for i in part_of:
        if digest := digests.get(corpus.clips[i].id):
            copies[digest].append(i)
    return [pair for same in copies.values() for pair in itertools.combinations(same, 2)]


def _speakers(corpus: Corpus, part: np.ndarray) -> set[str]:
    return {corpus.clips[i].speaker for i in part}


def _labels(corpus: Corpus, part: np.ndarray) -> set[str]:
    return {corpus.clips[i].label for i in part}


def _test_speakers(corpus: Corpus, protocol: str, fold: int) -> set[str]:
    speakers = corpus.speakers
    if protocol in RAVDESS_FOLDS or protocol == "loso24":
        if len(speakers) != 24 or any(speaker not in speakers for speaker in ("01", "24")):
            raise UserError(
                f"protocol {protocol} is made of RAVDESS's 24 actors; corpus {corpus.name} has {len(speakers)} "
                "speakers: use speakers5, loso, given or lists"
            )
        if protocol in RAVDESS_FOLDS:
            return {f"{actor:02d}" for actor in RAVDESS_FOLDS[protocol][fold - 1]}
    if protocol in ("loso", "loso24"):
        return {speakers[fold - 1]}
    if len(speakers) < 5:
        raise UserError(
            f"protocol speakers5 needs at least 5 speakers; corpus {corpus.name} has {len(speakers)}: "
            "use loso, or random_split, which shares speakers between train and test"
        )
    order = np.random.default_rng(SPLIT_RNG).permutation(len(speakers))
    return {speakers[i] for i in order[fold - 1 :: 5]}


def _by_speakers(corpus: Corpus, test: set[str], dev_share: float, dev: set[str] | None = None) -> Parts:
    """Splits by speaker; unless `dev` names them, dev speakers are drawn from the training speakers."""
    if dev is None:
        rest = [speaker for speaker in corpus.speakers if speaker not in test]
        count = max(1, round(dev_share * len(rest))) if dev_share > 0 else 0
        if count and len(rest) - count < 1:
            raise UserError(
                f"corpus {corpus.name} has too few speakers ({len(corpus.speakers)}) to take some for dev: "
                "use --config.split.dev_share=0, which keeps the last epoch"
            )
        rng = np.random.default_rng([SPLIT_RNG, *(ord(c) for c in "".join(sorted(test)))])
        dev = set(rng.choice(rest, size=count, replace=False)) if count else set()
    side = np.array([2 if c.speaker in test else 1 if c.speaker in dev else 0 for c in corpus.clips])
    return np.flatnonzero(side == 0), np.flatnonzero(side == 1), np.flatnonzero(side == 2)


def _stratified(labels: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """A part number 0..parts-1 for each clip; every label is spread evenly over the parts."""
    part = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        part[members] = np.arange(len(members)) % parts
    return part


def _random(corpus: Corpus, fold: int, dev_share: float) -> Parts:
    labels = np.array([clip.label for clip in corpus.clips])
    held_out = _stratified(labels, 5, np.random.default_rng(SPLIT_RNG)) == fold - 1
    return *_take_dev_clips(labels, np.flatnonzero(~held_out), dev_share), np.flatnonzero(held_out)


def _take_dev_clips(labels: np.ndarray, train: np.ndarray, dev_share: float) -> tuple[np.ndarray, np.ndarray]:
    if dev_share <= 0:
        return train, np.array([], int)
    dev = _stratified(labels[train], max(2, round(1 / dev_share)), np.random.default_rng(SPLIT_RNG + 1)) == 0
    return train[~dev], train[dev]


def _given(corpus: Corpus, dev_share: float) -> Parts:
    parts = {
        name: np.array([i for i, c in enumerate(corpus.clips) if c.split == name], int)
        for name in ("train", "dev", "test")
    }
    if len(parts["train"]) == 0 or len(parts["test"]) == 0:
        raise UserError(
            f"protocol given: corpus {corpus.name} does not mark clips as 'train' and 'test'; "
            "fill its split column or choose another protocol"
        )
    if len(parts["dev"]) == 0:
        parts["train"], parts["dev"] = _take_dev_speakers(corpus, parts["train"], dev_share)
    return parts["train"], parts["dev"], parts["test"]


def _take_dev_speakers(corpus: Corpus, train: np.ndarray, dev_share: float) -> tuple[np.ndarray, np.ndarray]:
    """(train, dev): whole speakers, until dev has its share of the clips; single clips where that is impossible.

    It is where every choice leaves training without a label, or gives dev more than a third of the clips.
    """
    labels = np.array([clip.label for clip in corpus.clips])
    speakers = np.array([clip.speaker for clip in corpus.clips])[train]
    share = dev_share * len(train)
    dev = np.zeros(len(train), bool)
    for speaker in np.random.default_rng(SPLIT_RNG).permutation(np.unique(speakers)):
        larger = dev | (speakers == speaker)
        keeps_labels = set(labels[train[~larger]]) == set(labels[train])
        if dev.sum() < share and larger.sum() <= max(share, len(train) / 3) and keeps_labels:
            dev = larger
    return (train[~dev], train[dev]) if dev.any() else _take_dev_clips(labels, train, dev_share)


def _listed(corpus: Corpus, dev_share: float, lists: Mapping[str, Sequence[str]]) -> Parts:
    named = {part: {str(speaker) for speaker in lists[part]} for part in ("train", "dev", "test")}
    known = set(corpus.speakers)
    if not named["test"]:
        raise UserError("protocol lists: config.split.test_speakers is empty; name the test speakers")
    if unknown := set().union(*named.values()) - known:
        raise UserError(
            f"protocol lists: corpus {corpus.name} has no speaker {', '.join(sorted(unknown))}; "
            f"it has {', '.join(sorted(known))}"
        )
    for a, b in (("train", "test"), ("train", "dev"), ("dev", "test")):
        if both := named[a] & named[b]:
            raise UserError(f"protocol lists: speakers {', '.join(sorted(both))} are in both {a} and {b}")
    train, dev, test = _by_speakers(corpus, named["test"], dev_share, named["dev"] or None)
    if named["train"]:
        train = np.array([i for i in train if corpus.clips[i].speaker in named["train"]], int)
        dev = np.array([i for i in dev if not named["dev"] or corpus.clips[i].speaker in named["dev"]], int)
    return train, dev, test
