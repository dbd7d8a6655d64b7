"""Per-speaker normalisation: each speaker's features by that speaker's own mean and deviation, without labels.

It needs all of a test speaker's recordings beforehand, which a user with one recording does not have. Results are
reported separately, under a protocol whose name ends in '+speakernorm'.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

SUFFIX = "+speakernorm"
KINDS = ("logmel", "functionals")  # features that can be normalised
NOTE = (
    "each speaker's features are normalised by their mean and deviation over all of that speaker's recordings, test "
    "speakers' too: it needs these beforehand, and is not comparable with results that do without"
)
_DEVIATION = 10.0  # about that of a mel band in dB, so that augmentation in dB keeps its strength


@dataclasses.dataclass(frozen=True)
class Level:
    """Mean and deviation of one speaker's features, float64 [channels] each."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, sequence: np.ndarray) -> np.ndarray:
        """[steps, channels] -> the same, of mean 0 and deviation 10 over all of the speaker's recordings."""
        return (_DEVIATION * (sequence - self.mean[None]) / self.std[None]).astype(np.float32)


def level_of(sequences: Sequence[np.ndarray]) -> Level:
    """The level of a speaker, from all of that speaker's sequences, [steps, channels] each."""
    steps = sum(map(len, sequences))
    mean = sum(x.sum(0, dtype=np.float64) for x in sequences) / steps
    variance = sum(np.square(x - mean[None]).sum(0) for x in sequences) / steps
    return Level(mean, np.sqrt(variance) + 1e-6 * np.abs(mean) + 1e-9)  # constant channels become 0
