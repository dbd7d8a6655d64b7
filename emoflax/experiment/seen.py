"""Which recordings and speakers trained a model: kept in its checkpoint, so that a later test leaves them out."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from emoflax.corpora import cells
from emoflax.data.clip import Clip, Corpus

_DIGITS = 12  # of a hash that are kept: of a million recordings, two are the same by chance once in 500 corpora
_MANIFEST = "manifest-"  # begins the name of a list: '1' in one of them need not be '1' in another
_NAMED = 5  # speakers that a sentence names


def of_training(corpus: Corpus, clips: Iterable[int], digests: Mapping[str, str]) -> dict[str, list[str]]:
    """What a checkpoint keeps of the clips at these positions, dev clips included, which chose the epoch.

    Args:
      digests: clip id -> hash of its decoded samples; empty for a corpus of texts.

    Returns:
      {'speakers': 'people:name', 'recordings': beginnings of hashes}, each sorted.
    """
    known = [corpus.clips[i] for i in clips]
    speakers = {f"{people}:{name}" for people, name in (_person(corpus, clip) for clip in known) if name}
    hashes = {digests[clip.id][:_DIGITS] for clip in known if digests.get(clip.id)}
    return {"speakers": sorted(speakers), "recordings": sorted(hashes)}


def _person(corpus: Corpus, clip: Clip) -> tuple[str, str]:
    """(Group of people, name) of who speaks; the name is '' where nobody knows."""
    if clip.corpus:
        people, _, name = clip.speaker.partition(":")
        return people, name
    source = corpus.sources[0] if corpus.sources else corpus
    return source.people or source.name, clip.speaker


@dataclasses.dataclass(frozen=True)
class Unseen:
    """Clips that had no part in some models' training.

    Attributes:
      clips: their positions.
      notes: sentences about those that are left out, and about what cannot be known.
      speakers_alone: whether some are left out for their speakers alone.
    """

    clips: np.ndarray
    notes: tuple[str, ...]
    speakers_alone: bool


def unseen(descriptions: Sequence[Mapping], corpus: Corpus, clips: np.ndarray, digests: Mapping[str, str]) -> Unseen:
    """Those of the clips at these positions of another corpus whose recording and speaker did not train the models.

    A speaker is known by name within corpora of the same people ('ravdess' and its songs). A list's names say nothing
    about another list's, so equal ones are noted, not left out.

    Args:
      descriptions: of the models, as their checkpoints hold them.
    """
    kept = [description["trained_on"] for description in descriptions if "trained_on" in description]
    notes = []
    if len(kept) < len(descriptions):
        notes.append("a checkpoint is of an earlier version and does not say which recordings trained it")
    if not digests or not all(trained["recordings"] for trained in kept):
        notes.append("whether recordings of training are among them is not known: a model of words keeps no hashes")
    hashes = {one for trained in kept for one in trained["recordings"]}
    people = {tuple(one.split(":", 1)) for trained in kept for one in trained["speakers"]}
    persons = [_person(corpus, corpus.clips[i]) for i in clips]
    same = np.array([digests.get(corpus.clips[i].id, "")[:_DIGITS] in hashes for i in clips], bool)
    spoken = np.array([person in people and not person[0].startswith(_MANIFEST) for person in persons], bool) & ~same
    if same.any():
        notes.append(f"{same.sum()} clips are left out: the model was trained on these recordings")
    if spoken.any():
        names = {":".join(person) for person, is_known in zip(persons, spoken, strict=True) if is_known}
        notes.append(f"{spoken.sum()} clips are left out: the model was trained on their speakers, {_listed(names)}")
    left = clips[~(same | spoken)]
    notes += _namesakes({_person(corpus, corpus.clips[i]) for i in left}, people)
    return Unseen(left, tuple(notes), bool(spoken.any()))


def _namesakes(persons: set[tuple[str, str]], people: set[tuple[str, str]]) -> list[str]:
    """A sentence about speakers who have the name of one of training, where one of the two is of a list."""
    groups_of: dict[str, set[str]] = {}
    for group, name in people:
        groups_of.setdefault(cells.spelling(name), set()).add(group)
    both = set()
    for group, name in persons:
        groups = {group, *groups_of.get(cells.spelling(name), ())} if name else set()
        if cells.spelling(name) in groups_of and any(one.startswith(_MANIFEST) for one in groups):
            both.add(name)
    if not both:
        return []
    return [
        f"speakers of the test and of training have the same names ({_listed(both)}); if they are the same people, the "
        "score says nothing about others"
    ]


def _listed(names: set[str]) -> str:
    return f"{', '.join(sorted(names)[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
