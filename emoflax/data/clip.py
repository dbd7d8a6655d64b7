"""Clips and corpora: one record per recording. Imports nothing but the standard library."""

import dataclasses
import functools
from collections.abc import Iterable

# Endings of the files that a folder is searched for.
CONTAINER_SUFFIXES = (".m4a", ".mp4", ".webm", ".aac")  # decoded by PyAV, which the extra `av` brings
RECORDING_SUFFIXES = (
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au",
    ".snd", ".caf", ".sph", *CONTAINER_SUFFIXES,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Clip:
    """One utterance, as a corpus describes it.

    Attributes:
      id: unique and stable within the corpus, e.g. 'Actor_01/03-01-05-01-02-01-01'. It holds
        neither the file's extension nor anything of the folder that the corpus is in.
      label: name of the emotion, one of the corpus's labels.
      speaker: name of the speaker, the unit of every actor-disjoint split.
      path: audio file on disk, or None in a text-only corpus.
      text: reference words, or None where there are none.
      split: 'train', 'dev' or 'test' where the corpus defines a split, else None.
      start_s, end_s: the part of the file; end_s None is the end of the file.
      corpus: name of the corpus that it comes from, where several are joined, else ''.
    """

    id: str
    label: str
    speaker: str
    path: str | None = None
    text: str | None = None
    split: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    corpus: str = ""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Clips that belong together.

    Attributes:
      name: its name in reports, files and checkpoints, e.g. 'ravdess'.
      labels: names of the emotions in the order of the logits.
      clips: sorted by id.
      notice: a warning that every report repeats (synthetic data in the place of a corpus), or ''.
      intelligible: whether a listener, or Whisper, can make out the words.
      people: name of the group of people who speak; corpora of the same people ('ravdess' and its songs) share it. '':
        the corpus's own.
      sources: the corpora that it was joined or chosen from, as they were loaded, each with a feature cache of its own.
        Empty: it is what was loaded.
    """

    name: str
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    notice: str = ""
    intelligible: bool = True
    people: str = ""
    sources: tuple["Corpus", ...] = ()

    @property
    def has_audio(self) -> bool:
        return all(clip.path is not None for clip in self.clips)

    @property
    def has_text(self) -> bool:
        return all(clip.text is not None for clip in self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        return tuple(sorted({clip.speaker for clip in self.clips}))

    @property
    def unknown_speakers(self) -> tuple[str, ...]:
        """Of `speakers` those that stand for whoever speaks: '', and 'mine:' where several corpora are joined."""
        return tuple(speaker for speaker in self.speakers if not speaker.rpartition(":")[2])

    def label_numbers(self, positions: Iterable[int]) -> list[int]:
        """Of each of the clips at those positions, the place of its label in `labels`."""
        return [self.labels.index(self.clips[position].label) for position in positions]

    @functools.cached_property
    def labels_of(self) -> dict[str, tuple[str, ...]]:
        """Name of each source corpus (`Clip.corpus`) -> labels that its clips have, in the order of the logits."""
        there: dict[str, set[str]] = {}
        for clip in self.clips:
            there.setdefault(clip.corpus, set()).add(clip.label)
        return {name: tuple(label for label in self.labels if label in has) for name, has in there.items()}
