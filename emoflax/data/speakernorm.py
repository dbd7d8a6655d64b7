"""Normalisation of each speaker's, or each corpus's, features by their own mean and deviation, without labels.

It needs all of a test speaker's, or test corpus's, recordings beforehand, which a user with one recording does not
have. Results are reported separately, under a protocol whose name ends in '+speakernorm' or '+corpusnorm'.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

SUFFIX, CORPUS_SUFFIX = "+speakernorm", "+corpusnorm"
SUFFIXES = {SUFFIX: "speaker", CORPUS_SUFFIX: "corpus"}  # of a protocol -> field of Clip whose clips share a scale
KINDS = ("logmel", "functionals", "states")  # features that can be normalised
_NOTE = (
    "each {0}'s features are normalised by their mean and deviation over all of that {0}'s recordings, {1} too: it "
    "needs these beforehand, and is not comparable with results that do without"
)
NOTE, CORPUS_NOTE = _NOTE.format("speaker", "test speakers'"), _NOTE.format("corpus", "those to be scored")
NOTES = {SUFFIX: NOTE, CORPUS_SUFFIX: CORPUS_NOTE}
_DEVIATION = 10.0  # about that of a mel band in dB, so that augmentation in dB keeps its strength


def suffix_of(protocol: str) -> str:
    """The one of SUFFIXES that the protocol's name ends in, or ''."""
    return next((suffix for suffix in SUFFIXES if protocol.endswith(suffix)), "")


@dataclasses.dataclass(frozen=True)
class Level:
    """Mean and deviation of the features of one speaker or corpus, float64 [...] each."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, sequence: np.ndarray) -> np.ndarray:
        """[steps, ...] -> the same, of mean 0 and deviation 10 over all recordings of the speaker or corpus."""
        return (_DEVIATION * (sequence - self.mean[None]) / self.std[None]).astype(np.float32)


def level_of(sequences: Sequence[np.ndarray]) -> Level:
    """The level of a speaker or corpus, from all of its sequences, [steps, ...] each."""
    steps = sum(map(len, sequences))
    mean = sum(x.sum(0, dtype=np.float64) for x in sequences) / steps
    variance = sum(np.square(x - mean[None]).sum(0) for x in sequences) / steps
    return Level(mean, np.sqrt(variance) + 1e-6 * np.abs(mean) + 1e-9)  # constant channels become 0
