"""One record per recording, and the names of what a batch holds. Imports nothing but the standard library."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Clip:
    """One utterance, as a corpus describes it; it enters the pipeline once and is never looked up backwards.

    Attributes:
      id: unique and stable within the corpus, e.g. 'Actor_01/03-01-05-01-02-01-01'. It does not hold the
        file's extension, nor anything that depends on where the corpus lies on disk.
      label: name of the emotion, one of the corpus's labels.
      speaker: name of the speaker, the unit of every actor-disjoint split.
      path: audio file on disk, or None in a text-only corpus.
      text: reference words, or None where nobody wrote them down.
      split: 'train', 'dev' or 'test' where the corpus itself says so, else None.
      start_s, end_s: the part of the file that is meant; end_s None is the end of the file.
    """

    id: str
    label: str
    speaker: str
    path: str | None = None
    text: str | None = None
    split: str | None = None
    start_s: float = 0.0
    end_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Clips that belong together.

    Attributes:
      name: what every report, file and checkpoint calls it, e.g. 'ravdess'.
      labels: names of the emotions in the order of the logits.
      clips: sorted by id.
      notice: what the user must be told about it in every report (a stand-in for missing data), or ''.
      intelligible: whether a listener, or Whisper, can make out the words.
    """

    name: str
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    notice: str = ""
    intelligible: bool = True

    @property
    def has_audio(self) -> bool:
        return all(clip.path is not None for clip in self.clips)

    @property
    def has_text(self) -> bool:
        return all(clip.text is not None for clip in self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        return tuple(sorted({clip.speaker for clip in self.clips}))
