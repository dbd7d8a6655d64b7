"""Per-speaker normalisation: each speaker's features on a scale of that speaker's own, without a look at labels.

It needs all of a test speaker's recordings beforehand, which whoever judges one recording does not have. Results are
kept apart under the name of their protocol, which ends in '+speakernorm'.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

SUFFIX = "+speakernorm"
KINDS = ("logmel", "functionals")  # features that it acts on
NOTE = (
    "each speaker's features are normalised by their mean and deviation over all of that speaker's recordings, test "
    "speakers' too: it needs these beforehand, and is not comparable with results that do without"
)
_DEVIATION = 10.0  # about that of a mel band in dB, so that augmentation in dB stays as strong as it was


@dataclasses.dataclass(frozen=True)
class Level:
    """Of a speaker: float64 [channels] each."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, sequence: np.ndarray) -> np.ndarray:
        """[steps, channels] -> the same, with a mean of 0 and a deviation of 10 over all that the speaker says."""
        return (_DEVIATION * (sequence - self.mean[None]) / self.std[None]).astype(np.float32)


def level_of(sequences: Sequence[np.ndarray]) -> Level:
    """Of all of a speaker's sequences, [steps, channels] each."""
    steps = sum(map(len, sequences))
    mean = sum(x.sum(0, dtype=np.float64) for x in sequences) / steps
    variance = sum(np.square(x - mean[None]).sum(0) for x in sequences) / steps
    return Level(mean, np.sqrt(variance) + 1e-6 * np.abs(mean) + 1e-9)  # what never changes stays 0
