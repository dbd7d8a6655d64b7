"""Named protocols: which clips train, which choose the epoch, which are scored once at the end.

Indices are positions in `corpus.clips`. What a protocol promises is checked on the clips themselves:
`check_leakage` refuses a speaker or an identical recording on both sides of an actor-disjoint split.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

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
SPLIT_RNG = 2018  # fixes which speakers or clips share a fold; a run's seed never changes the split
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
        """What every report says about the protocol."""
        note = "actor-disjoint: no test speaker is heard in training"
        if self.shares_speakers:
            note = "speakers are SHARED between train and test: not comparable with actor-disjoint results"
        return f"{note}; {speakernorm.NOTE}" if by_speaker(self.protocol) else note


def resolve_protocol(protocol: str, corpus: Corpus) -> str:
    """'auto' -> a name from PROTOCOLS that fits the corpus; '+speakernorm' stays behind it.

    Raises:
      UserError: a name that does not exist.
    """
    clips_of = base_of(protocol)
    if clips_of == "auto":
        clips_of = _default_protocol(corpus)
    if clips_of not in PROTOCOLS:
        raise UserError(
            f"config.split.protocol={protocol!r} does not exist; choose: auto, {', '.join(PROTOCOLS)}, or one of them "
            f"with {speakernorm.SUFFIX} behind it"
        )
    return clips_of + protocol[len(base_of(protocol)) :]


def base_of(protocol: str) -> str:
    """The protocol that says which clips train, dev and test have."""
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
        raise UserError(f"config.split.fold={fold!r}: protocol {protocol} has folds 1 to {folds}; or say 'all'")
    return (int(fold),)


def make_split(corpus: Corpus, protocol: str, fold: int, dev_share: float, lists: Mapping[str, Sequence[str]]) -> Split:
    """The clips of one fold.

    Args:
      protocol: a name that `resolve_protocol` returned.
      fold: counted from 1.
      dev_share: part of the training speakers (random protocols: of the training clips) that chooses the epoch.
      lists: speakers of 'train', 'dev' and 'test', used by protocol 'lists' alone.

    Raises:
      UserError: the corpus does not have what the protocol needs.
    """
    clips_of = base_of(protocol)
    if clips_of in RANDOM_PROTOCOLS:
        train, dev, test = _random(corpus, fold, dev_share)
    elif clips_of in ("given", "meld"):
        train, dev, test = _given(corpus, dev_share)
    elif clips_of == "lists":
        train, dev, test = _listed(corpus, dev_share, lists)
    else:
        train, dev, test = _by_speakers(corpus, _test_speakers(corpus, clips_of, fold), dev_share)
    heard = {corpus.clips[i].speaker for i in (*train, *dev)}
    split = Split(protocol, fold, train, dev, test, shares_speakers=any(corpus.clips[i].speaker in heard for i in test))
    for name, part in (("training", train), ("test", test)):
        if len(part) == 0:
            raise UserError(f"protocol {protocol}, fold {fold}: the {name} part of corpus {corpus.name} holds no clip")
    if missing := sorted((_labels(corpus, test) | _labels(corpus, dev)) - _labels(corpus, train)):
        raise UserError(
            f"protocol {protocol}, fold {fold}: no training clip has the label {', '.join(missing)}, "
            "which dev or test clips have; record it with more speakers or choose another split"
        )
    return split


def nest(split: Split) -> tuple[Split, Split]:
    """(inner, outer): where choices are made, which holds no test clip; and the fold, whose training clips all train.

    Raises:
      UserError: no training clip is set aside to choose by.
    """
    if len(split.dev) == 0:
        raise UserError("nested evaluation chooses on training speakers set aside: config.crossval.inner_share is 0")
    none = np.array([], int)
    inner = dataclasses.replace(split, test=none)
    return inner, dataclasses.replace(split, train=np.sort(np.concatenate([split.train, split.dev])), dev=none)


def check_leakage(split: Split, corpus: Corpus, digests: Mapping[str, str]) -> None:
    """Refuses an actor-disjoint split with a speaker, or one recording's exact samples, on both sides.

    Args:
      digests: clip id -> hash of its decoded samples (empty where unknown, as in a text-only corpus).

    Raises:
      UserError: naming the speakers or the clips.
    """
    clips = corpus.clips
    if base_of(split.protocol) not in (*RANDOM_PROTOCOLS, "given", "meld") and split.shares_speakers:
        both = {clips[i].speaker for i in split.test} & {clips[i].speaker for i in (*split.train, *split.dev)}
        raise UserError(f"protocol {split.protocol}: speakers {', '.join(sorted(both))} are in training and in test")
    if split.shares_speakers:
        return
    heard = {digest: clips[i].id for i in (*split.train, *split.dev) if (digest := digests.get(clips[i].id))}
    doubles = [(clips[i].id, heard[d]) for i in split.test if (d := digests.get(clips[i].id)) in heard]
    if doubles:
        raise UserError(
            f"fold {split.fold} of {split.protocol}: {len(doubles)} test recordings are also training recordings under "
            f"another speaker's name, e.g. {doubles[0][0]} = {doubles[0][1]}; remove one of each pair from the corpus"
        )


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
                f"corpus {corpus.name} has too few speakers ({len(corpus.speakers)}) to set some aside for dev: "
                "use --config.split.dev_share=0, which takes the last epoch"
            )
        rng = np.random.default_rng([SPLIT_RNG, *(ord(c) for c in "".join(sorted(test)))])
        dev = set(rng.choice(rest, size=count, replace=False)) if count else set()
    side = np.array([2 if c.speaker in test else 1 if c.speaker in dev else 0 for c in corpus.clips])
    return np.flatnonzero(side == 0), np.flatnonzero(side == 1), np.flatnonzero(side == 2)


def _stratified(labels: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """A part number 0..parts-1 for each clip; every label is dealt out evenly."""
    part = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        part[members] = np.arange(len(members)) % parts
    return part


def _random(corpus: Corpus, fold: int, dev_share: float) -> Parts:
    labels = np.array([clip.label for clip in corpus.clips])
    held_out = _stratified(labels, 5, np.random.default_rng(SPLIT_RNG)) == fold - 1
    return *_carve_dev(labels, np.flatnonzero(~held_out), dev_share), np.flatnonzero(held_out)


def _carve_dev(labels: np.ndarray, train: np.ndarray, dev_share: float) -> tuple[np.ndarray, np.ndarray]:
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
            f"protocol given: corpus {corpus.name} does not say which clips are 'train' and which are 'test'; "
            "fill its split column or choose another protocol"
        )
    if len(parts["dev"]) == 0:
        labels = np.array([clip.label for clip in corpus.clips])
        parts["train"], parts["dev"] = _carve_dev(labels, parts["train"], dev_share)
    return parts["train"], parts["dev"], parts["test"]


def _listed(corpus: Corpus, dev_share: float, lists: Mapping[str, Sequence[str]]) -> Parts:
    named = {part: {str(speaker) for speaker in lists[part]} for part in ("train", "dev", "test")}
    known = set(corpus.speakers)
    if not named["test"]:
        raise UserError("protocol lists: config.split.test_speakers is empty; name the speakers to be tested")
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
