"""One record per recording, and the names of what a batch holds. Imports nothing but the standard library."""

import dataclasses
from collections.abc import Mapping

# What follows the mel bands with config.audio.contours (`precompute.contours`): of every frame, then of voiced ones.
CONTOURS = (
    "energy_db", "loudness", "zero_crossings", "flux", "centroid", "bandwidth", "spectral_skew", "spectral_kurtosis",
    "entropy", "flatness", "alpha_ratio", "hammarberg", "low_share", "high_share", "mid_share", "slope_0_500",
    "slope_500_1500", "slope_0_5000", "rolloff_25", "rolloff_50", "rolloff_75", "rolloff_90",
    *(f"mfcc_{i}" for i in range(15)), "harmonicity", "cpp",
    "voiced", "semitones", "hnr", "h1_h2", "h1_h3", "h1_a1", "h1_a2", "h1_a3", "formant_1", "formant_2", "formant_3",
    "bandwidth_1", "bandwidth_2", "bandwidth_3",
)  # fmt: skip
FUNCTIONALS = 4_530  # statistics that precompute/functionals.py makes of a clip
KERNEL_STATISTICS = 5  # that precompute/kernels.py makes of each random convolution


def functionals_count(statistics: bool, kernels: int) -> int:
    """Of the fields of config.functionals: how many numbers a clip gives at each speed."""
    return FUNCTIONALS * statistics + KERNEL_STATISTICS * kernels


def channels(audio: Mapping) -> int:
    """Numbers in a frame of the log-mels that the fields of config.audio ask for."""
    return audio["mels"] + len(CONTOURS) * audio["contours"]


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
