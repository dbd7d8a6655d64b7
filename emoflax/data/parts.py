"""Which clips of a corpus are in training, dev and test, for each kind of protocol."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from emoflax.data.clip import Corpus
from emoflax.errors import UserError

# Test actors of each fold. EmoBox (Ma et al. 2024) and Luna-Jimenez et al. (2021, 2022).
RAVDESS_FOLDS = {
    "emobox6": ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22)),
    "luna5": ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22)),
}
SPLIT_RNG = 2018  # seed of which speakers or clips share a fold; a run's seed never changes the split
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # places of the training, dev and test clips


def speakers_of(corpus: Corpus, part: np.ndarray) -> set[str]:
    return {corpus.clips[i].speaker for i in part}


def labels_of(corpus: Corpus, part: np.ndarray) -> set[str]:
    return {corpus.clips[i].label for i in part}


def speaker_groups(corpus: Corpus) -> list[tuple[str, ...]]:
    """Names of the source corpora, in groups that share no speaker, sorted."""
    speakers: dict[str, set[str]] = defaultdict(set)
    for clip in corpus.clips:
        speakers[clip.corpus].add(clip.speaker)
    groups: list[set[str]] = []
    for name in speakers:
        linked = [group for group in groups if any(speakers[name] & speakers[other] for other in group)]
        groups = [group for group in groups if group not in linked] + [{name}.union(*linked)]
    return sorted(tuple(sorted(group)) for group in groups)


def one_corpus_out(corpus: Corpus, fold: int, dev_share: float) -> Parts:
    """Tests a corpus, with those of the same people; its clips of emotions that the others lack are left out."""
    groups = speaker_groups(corpus)
    if len(groups) < 2:
        raise UserError(
            f"protocol loco leaves one corpus out, and {corpus.name} is of one group of people: name several, such as "
            "--config.data.corpus=ravdess,emovo"
        )
    out = groups[fold - 1]
    speakers = {clip.speaker for clip in corpus.clips if clip.corpus in out}
    train, dev, test = by_speakers(corpus, speakers, dev_share)
    known = labels_of(corpus, train)
    kept = [np.array([i for i in part if corpus.clips[i].label in known], int) for part in (dev, test)]
    if lost := len(dev) + len(test) - sum(map(len, kept)):
        logging.info("fold %d of loco, %s: %d clips of emotions without training clips are left out",
                     fold, "+".join(out), lost)  # fmt: skip
    return train, kept[0], kept[1]


def ravdess_actors(corpus: Corpus) -> dict[int, str]:
    """Number -> speaker, of RAVDESS's actors in a corpus of all of them, or joined of theirs and others; else empty."""
    prefix = "ravdess:" if any(clip.corpus for clip in corpus.clips) else ""
    actors = {number: f"{prefix}{number:02d}" for number in range(1, 25)}
    others = set(corpus.speakers) - set(actors.values())
    return actors if set(actors.values()) <= set(corpus.speakers) and (prefix or not others) else {}


def test_speakers(corpus: Corpus, protocol: str) -> list[tuple[str, ...]]:
    """The test speakers of each fold of a protocol that divides speakers.

    Raises:
      UserError: the corpus does not have the speakers that the protocol needs.
    """
    speakers = corpus.speakers
    if protocol in RAVDESS_FOLDS or protocol == "loso24":
        actors = ravdess_actors(corpus)
        if not actors:
            raise UserError(
                f"protocol {protocol} is made of RAVDESS's 24 actors; corpus {corpus.name} has {len(speakers)} "
                "speakers: use speakers5, loso, given or lists"
            )
        folds = RAVDESS_FOLDS.get(protocol) or [(number,) for number in actors]
        return [tuple(actors[number] for number in fold) for fold in folds]
    if len(speakers) < 2:
        who = "has one speaker only" if speakers != ("",) else "does not say who speaks (no column speaker)"
        raise UserError(
            f"protocol {protocol} tests speakers who do not train, and corpus {corpus.name} {who}: add speakers, or "
            "use random_split, or given with a split column (--config.split.protocol), with people on both sides"
        )
    if protocol == "loso":
        return [(speaker,) for speaker in speakers]
    if len(speakers) < 5:
        raise UserError(
            f"protocol speakers5 needs at least 5 speakers; corpus {corpus.name} has {len(speakers)}: "
            "use loso, or random_split, which shares speakers between train and test"
        )
    order = np.random.default_rng(SPLIT_RNG).permutation(len(speakers))
    return [tuple(speakers[i] for i in order[start::5]) for start in range(5)]


def one_fold(corpus: Corpus, folds: Sequence[tuple[str, ...]], fold: int, dev_share: float) -> Parts:
    """Tests the speakers of a fold, counted from 1; dev speakers come from the other folds, or, drawn, of all corpora."""
    test = set(folds[fold - 1])
    if len({clip.corpus for clip in corpus.clips}) > 1:  # each is to give its share
        return by_speakers(corpus, test, dev_share)
    dev = _of_other_folds(folds, fold, _dev_count(corpus, test, dev_share))
    return by_speakers(corpus, test, dev_share, dev)


def _of_other_folds(folds: Sequence[tuple[str, ...]], fold: int, count: int) -> set[str]:
    """So many speakers: one of each fold after this one, in a circle, then another one of each.

    The first pick is a fold's first speaker, the second one the next fold's second and so on, so that over all folds
    everybody is a dev speaker about equally often, and dev speakers are on average as easy as test speakers are.
    """
    others = [*folds[fold:], *folds[: fold - 1]]
    picks = itertools.islice(itertools.cycle(others), len(others) * max(map(len, others)))
    order = [other[number % len(other)] for number, other in enumerate(picks)]
    order += itertools.chain.from_iterable(others)  # whom sizes that divide each other have left out
    return set(list(dict.fromkeys(order))[:count])


def by_speakers(corpus: Corpus, test: set[str], dev_share: float, dev: set[str] | None = None) -> Parts:
    """Splits by speaker; unless `dev` names them, dev speakers are drawn from the training speakers."""
    if dev is None:
        rest = [speaker for speaker in corpus.speakers if speaker not in test]
        rng = np.random.default_rng([SPLIT_RNG, *(ord(c) for c in "".join(sorted(test)))])
        dev = _drawn(corpus, rest, _dev_count(corpus, test, dev_share), rng)
    side = np.array([2 if c.speaker in test else 1 if c.speaker in dev else 0 for c in corpus.clips])
    return np.flatnonzero(side == 0), np.flatnonzero(side == 1), np.flatnonzero(side == 2)


def _dev_count(corpus: Corpus, test: set[str], dev_share: float) -> int:
    """How many of the training speakers are dev speakers. Raises UserError where none would be left."""
    rest = len(set(corpus.speakers) - test)
    count = max(1, round(dev_share * rest)) if dev_share > 0 else 0
    if count and rest - count < 1:
        raise UserError(
            f"corpus {corpus.name} has too few speakers ({len(corpus.speakers)}) to take some for dev: "
            "use --config.split.dev_share=0, which keeps the last epoch"
        )
    return count


def _drawn(corpus: Corpus, speakers: Sequence[str], count: int, rng: np.random.Generator) -> set[str]:
    """So many of the speakers; of several corpora each gives its share, rounded, and keeps a speaker for training."""
    corpus_of = {clip.speaker: clip.corpus for clip in reversed(corpus.clips)}
    drawn: set[str] = set()
    for name in sorted({corpus_of[speaker] for speaker in speakers}):
        own = [speaker for speaker in speakers if corpus_of[speaker] == name]
        share = round(count * len(own) / len(speakers))
        drawn |= set(rng.choice(own, size=min(share, len(own) - 1), replace=False)) if share else set()
    return drawn


def _stratified(labels: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """A part number 0..parts-1 for each clip; every label is spread evenly over the parts."""
    part = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        part[members] = np.arange(len(members)) % parts
    return part


def at_random(corpus: Corpus, fold: int, dev_share: float) -> Parts:
    labels = np.array([clip.label for clip in corpus.clips])
    held_out = _stratified(labels, 5, np.random.default_rng(SPLIT_RNG)) == fold - 1
    return *_take_dev_clips(labels, np.flatnonzero(~held_out), dev_share), np.flatnonzero(held_out)


def _take_dev_clips(labels: np.ndarray, train: np.ndarray, dev_share: float) -> tuple[np.ndarray, np.ndarray]:
    if dev_share <= 0:
        return train, np.array([], int)
    dev = _stratified(labels[train], max(2, round(1 / dev_share)), np.random.default_rng(SPLIT_RNG + 1)) == 0
    return train[~dev], train[dev]


def given(corpus: Corpus, dev_share: float) -> Parts:
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


def listed(corpus: Corpus, dev_share: float, lists: Mapping[str, Sequence[str]]) -> Parts:
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
    train, dev, test = by_speakers(corpus, named["test"], dev_share, named["dev"] or None)
    if named["train"]:
        train = np.array([i for i in train if corpus.clips[i].speaker in named["train"]], int)
        dev = np.array([i for i in dev if not named["dev"] or corpus.clips[i].speaker in named["dev"]], int)
    return train, dev, test
