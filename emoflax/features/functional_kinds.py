"""Kinds of our functionals, which a fit can leave out where other voices, microphones and languages are to come."""

import functools
from collections.abc import Collection

import numpy as np

from emoflax.features.functionals import functionals

# 'course': where in the clip a contour is high: it depends on the sentence. 'levels': how high it is on average and in
# its percentiles, which the voice and the microphone decide, but for pitch. 'bands': whatever is measured of mel bands
# and cepstra.
KINDS = ("course", "levels", "bands")
_COURSE = ("slope", "slope_per_s", "curve", "line_error", "parabola_error", "where_max", "where_min", "cosine", "part")
_LEVELS = ("mean", "magnitude", "p1", "p10", "p25", "p50", "p75", "p90", "p99")
_ANY_RATE_HZ = 16_000


@functools.cache
def names() -> tuple[str, ...]:
    """Of all functionals, without random convolutions: `contour.statistic`, the same for every recording."""
    return functionals(np.zeros(_ANY_RATE_HZ, np.float32), _ANY_RATE_HZ)[1]


def kinds_of(name: str) -> set[str]:
    contour, _, statistic = name.partition(".")
    kinds = {"course"} if statistic.rstrip("0123456789") in _COURSE else set()
    kinds |= {"levels"} if statistic in _LEVELS and not contour.startswith("semitones") else set()
    return kinds | ({"bands"} if contour.startswith(("mel_", "mfcc_")) else set())


def left(without: Collection[str]) -> np.ndarray:
    """Whether each functional is of none of those kinds, bool [functionals]."""
    return np.array([kinds_of(name).isdisjoint(without) for name in names()])
