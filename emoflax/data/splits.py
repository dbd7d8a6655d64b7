"""Named protocols: which clips train, which choose the epoch, which are scored once at the end.

Indices are positions in `corpus.clips`. `check_leakage` refuses a speaker or an identical recording in two parts of an
actor-disjoint split.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from emoflax.data import parts, speakernorm, twins
from emoflax.data.clip import Corpus
from emoflax.errors import UserError

RANDOM_PROTOCOLS = {"random_split": 1, "random5": 5}  # number of folds; speakers are shared
PROTOCOLS = (*parts.RAVDESS_FOLDS, "loso24", "loso", "speakers5", "loco", *RANDOM_PROTOCOLS, "given", "meld", "lists")
EVERYONE = "everyone"  # the protocol's name of `everyone`, which nobody can choose
_SHARED = "only emotions that both have are scored, and probabilities are those among them"
ACROSS_CORPORA = {  # what a report says of results on a corpus that has no part in training
    "loco": f"leave one corpus out: no recording and no speaker of the test corpus is in training; {_SHARED}",
    "transfer": f"a trained model on another corpus; {_SHARED}",
}
_LISTED_PAIRS = 20  # of identical recordings, in a warning


@dataclasses.dataclass(frozen=True)
class Split:
    """One fold. `train`, `dev` and `test` are sorted int arrays of positions in `corpus.clips`; dev may be empty."""

    protocol: str
    fold: int
    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    shares_speakers: bool
    caution: str = ""  # about the corpus's speakers, in the place of whether they are shared

    @property
    def note(self) -> str:
        """Description of the protocol in every report."""
        note = "actor-disjoint: no test speaker is in training"
        if self.shares_speakers:
            note = "speakers are SHARED between train and test: not comparable with actor-disjoint results"
        note = ACROSS_CORPORA.get(base_of(self.protocol), self.caution or note)
        suffix = speakernorm.suffix_of(self.protocol)
        return f"{note}; {speakernorm.NOTES[suffix]}" if suffix else note


def resolve_protocol(protocol: str, corpus: Corpus) -> str:
    """'auto' -> a name from PROTOCOLS that fits the corpus; a suffix such as '+speakernorm' is kept.

    Raises:
      UserError: a name that does not exist.
    """
    base = base_of(protocol)
    if base == "auto":
        base = _default_protocol(corpus)
    if base not in PROTOCOLS:
        raise UserError(
            f"config.split.protocol={protocol!r} does not exist; choose: auto, {', '.join(PROTOCOLS)}, or one of them "
            f"followed by {' or '.join(speakernorm.SUFFIXES)}"
        )
    return base + protocol[len(base_of(protocol)) :]


def base_of(protocol: str) -> str:
    """The protocol without a suffix such as '+speakernorm': it defines the clips of train, dev and test."""
    return protocol.removesuffix(speakernorm.suffix_of(protocol))


def _default_protocol(corpus: Corpus) -> str:
    if len(parts.speaker_groups(corpus)) > 1:
        return "loco"
    if "ravdess" in [source.name for source in corpus.sources or (corpus,)] and parts.ravdess_actors(corpus):
        return "emobox6"
    if any(clip.split for clip in corpus.clips):
        return "meld" if corpus.name == "meld" else "given"
    return "speakers5" if len(corpus.speakers) >= 5 else "loso"


def count_folds(protocol: str, corpus: Corpus) -> int:
    protocol = base_of(protocol)
    if protocol in parts.RAVDESS_FOLDS:
        return len(parts.RAVDESS_FOLDS[protocol])
    if protocol == "loso24":
        return 24
    if protocol == "loso":
        return len(corpus.speakers)
    if protocol == "loco":
        return len(parts.speaker_groups(corpus))
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
        train, dev, test = parts.at_random(corpus, fold, dev_share)
    elif base in ("given", "meld"):
        train, dev, test = parts.given(corpus, dev_share)
    elif base == "lists":
        train, dev, test = parts.listed(corpus, dev_share, lists)
    elif base == "loco":
        train, dev, test = parts.one_corpus_out(corpus, fold, dev_share)
    else:
        train, dev, test = parts.one_fold(corpus, parts.test_speakers(corpus, base), fold, dev_share)
    shared = parts.speakers_of(corpus, test) & (parts.speakers_of(corpus, train) | parts.speakers_of(corpus, dev))
    split = Split(protocol, fold, train, dev, test, bool(shared), _caution(protocol, corpus))
    for name, part in (("training", train), ("test", test)):
        if len(part) == 0:
            raise UserError(f"protocol {protocol}, fold {fold}: the {name} part of corpus {corpus.name} has no clip")
    scored = parts.labels_of(corpus, test) | parts.labels_of(corpus, dev)
    if missing := sorted(scored - parts.labels_of(corpus, train)):
        raise UserError(
            f"protocol {protocol}, fold {fold}: no training clip has the label {', '.join(missing)}, "
            "which dev or test clips have; record it with more speakers or choose another split"
        )
    return split


def _caution(protocol: str, corpus: Corpus) -> str:
    """What a report says where speakers are not known, or are one. Raises UserError where a protocol needs them."""
    if not corpus.unknown_speakers:
        one = "ONE speaker alone, in training and in test: how well it does on other people is not known"
        return one if len(corpus.speakers) == 1 else ""
    if speakernorm.suffix_of(protocol) == speakernorm.SUFFIX:
        where = ", ".join(name.rstrip(":") for name in corpus.unknown_speakers if name) or corpus.name
        raise UserError(f"protocol {protocol}: corpus {where} does not say who speaks; give it a speaker column")
    return "speakers are UNKNOWN and may be in training and in test: not comparable with actor-disjoint results"


def everyone(corpus: Corpus, protocol: str) -> Split:
    """The split of a model to keep: all clips train, none is left for a score.

    Args:
      protocol: of the scores that belong to it; a suffix such as '+speakernorm' is kept.
    """
    none = np.array([], int)
    return Split(EVERYONE + speakernorm.suffix_of(protocol), 1, np.arange(len(corpus.clips)), none, none, False)


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


def check_leakage(split: Split, corpus: Corpus, digests: Mapping[str, str]) -> Split:
    """The split, without training clips that are dev or test clips, too, and dev clips that are test clips, too.

    Two clips are one if their samples are identical, or if they are overlapping parts of one file. They are left out,
    with a warning, where the two parts share speakers; else they are refused, as are speakers in two parts of an
    actor-disjoint split. Identical recordings of two speakers within one part, and dev speakers of a given split that
    train as well, are warned of.

    Args:
      digests: clip id -> hash of its decoded samples (empty where unknown, as in a text-only corpus).

    Raises:
      UserError: naming the speakers or the clips; or nothing is left to train on.
    """
    sides = {"training": split.train, "dev": split.dev, "test": split.test}
    speakers = {name: parts.speakers_of(corpus, side) for name, side in sides.items()}
    shared = {pair: speakers[pair[0]] & speakers[pair[1]] for pair in itertools.combinations(sides, 2)}
    base = base_of(split.protocol)
    if base not in (*RANDOM_PROTOCOLS, "given", "meld"):
        for (one, other), both in shared.items():
            if both:
                raise UserError(
                    f"protocol {split.protocol}: speakers {', '.join(sorted(both))} are in {one} and in {other}"
                )
    if not split.shares_speakers and (both := shared["training", "dev"]):
        logging.warning(
            "protocol %s: the epoch is chosen on speakers who train as well (%s); for dev clips of other speakers fill "
            "the corpus's split column accordingly", split.protocol, ", ".join(sorted(both)),
        )  # fmt: skip
    part_of = {i: name for name, side in sides.items() for i in side}
    pairs = list(twins.pairs(corpus, part_of, digests))
    crossing = {pair: [(a, b) for a, b in pairs if (part_of[a], part_of[b]) == pair] for pair in shared}
    for (one, other), doubles in crossing.items():
        if doubles and not shared[one, other] and base not in RANDOM_PROTOCOLS:
            first, second = (corpus.clips[i].id for i in doubles[0])
            raise UserError(
                f"fold {split.fold} of {split.protocol}: {len(doubles)} {other} recordings are also {one} recordings "
                f"under another speaker's name, e.g. {second} = {first}; remove one of each pair from the corpus"
            )
    if not split.shares_speakers:
        _warn_of_names(split, corpus, pairs)
    return _one_sided(split, corpus, crossing)


def note_of_twins(split: Split, kept: Split) -> str:
    """For a report: what `check_leakage` left out of a split; '' where it is nothing."""
    lost = len(split.train) - len(kept.train), len(split.dev) - len(kept.dev)
    return f"fold {split.fold}: {twins.sentence(*lost)}" if any(lost) else ""


def _warn_of_names(split: Split, corpus: Corpus, pairs: Sequence[tuple[int, int]]) -> None:
    """One recording under two speakers' names may mean that these are one person."""
    named_twice = [pair for pair in pairs if len({corpus.clips[i].speaker for i in pair}) == 2]
    if named_twice:
        listed = "; ".join(f"{corpus.clips[a].id} = {corpus.clips[b].id}" for a, b in named_twice[:_LISTED_PAIRS])
        logging.warning(
            "fold %d of %s: %d pairs of identical recordings have two speakers' names, so these may be one person and "
            "the split not actor-disjoint: %s%s", split.fold, split.protocol, len(named_twice), listed,
            " ..." if len(named_twice) > _LISTED_PAIRS else "",
        )  # fmt: skip


def _one_sided(split: Split, corpus: Corpus, crossing: Mapping[tuple[str, str], Sequence[tuple[int, int]]]) -> Split:
    """The split with clips that cross from one part to another in the later part alone."""
    lost = {name: sorted({a for (one, _), doubles in crossing.items() if one == name for a, _ in doubles})
            for name in ("training", "dev")}  # fmt: skip
    if not any(lost.values()):
        return split
    train, dev = np.setdiff1d(split.train, lost["training"]), np.setdiff1d(split.dev, lost["dev"])
    kept = dataclasses.replace(split, train=train, dev=dev)
    logging.warning("%s: %s", split.protocol, note_of_twins(split, kept))
    if missing := sorted(parts.labels_of(corpus, split.test) - parts.labels_of(corpus, train)):
        raise UserError(
            f"fold {split.fold} of {split.protocol}: every training clip of {', '.join(missing)} is a test clip, too; "
            "remove the copies from the corpus"
        )
    return kept
