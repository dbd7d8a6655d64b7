"""Channels of a log-mel frame: names, typical scale, number. Imports nothing but the standard library."""

from collections.abc import Mapping

# Centre and deviation in speech of a mel band in dB, and of each contour that follows the mel bands with
# config.audio.contours (`emoflax.features.contours`: of every frame, then of voiced ones), so that all have a similar
# scale: rounded from espeak-ng's voices, so that no recording of a corpus has an influence.
TYPICAL_MEL_DB = (-30.0, 18.0)

TYPICAL = {
    "energy_db": (-24, 20), "loudness": (2, 1), "zero_crossings": (0.2, 0.15), "flux": (0.2, 0.15),
    "centroid": (10, 1), "bandwidth": (10, 1), "spectral_skew": (4, 4), "spectral_kurtosis": (3, 1),
    "entropy": (4.5, 1), "flatness": (-23, 10), "alpha_ratio": (-8, 10), "hammarberg": (14, 10), "low_share": (9, 10),
    "high_share": (-20, 15), "mid_share": (-4, 10), "slope_0_500": (40, 40), "slope_500_1500": (-20, 20),
    "slope_0_5000": (-3, 4), "rolloff_25": (9, 1), "rolloff_50": (9.5, 1), "rolloff_75": (10, 1), "rolloff_90": (11, 1),
    "mfcc_0": (-250, 80), "mfcc_1": (30, 30), "mfcc_2": (10, 20), "mfcc_3": (10, 20), "mfcc_4": (-10, 20),
    "mfcc_5": (-10, 15), "mfcc_6": (0, 15), "mfcc_7": (-10, 10), "mfcc_8": (0, 10), "mfcc_9": (0, 8), "mfcc_10": (0, 8),
    "mfcc_11": (0, 8), "mfcc_12": (0, 7), "mfcc_13": (0, 7), "mfcc_14": (0, 6), "harmonicity": (0.7, 0.3),
    "cpp": (0.3, 0.2), "voiced": (0.7, 0.4), "semitones": (28, 7), "hnr": (8, 5), "h1_h2": (0, 6), "h1_h3": (0, 12),
    "h1_a1": (-4, 9), "h1_a2": (8, 12), "h1_a3": (15, 10), "formant_1": (650, 500), "formant_2": (1800, 700),
    "formant_3": (3000, 500), "bandwidth_1": (150, 140), "bandwidth_2": (150, 140), "bandwidth_3": (180, 150),
}  # fmt: skip

CONTOURS = tuple(TYPICAL)

CONDITIONS = ("level_db", "bandwidth_hz", "duration_s", "snr_db")  # of a recording, by `features.conditions`

FRAME_MS = 10.0  # from one value of a contour to the next

FUNCTIONALS = 4_530  # number of statistics that features/functionals.py computes for a clip

KERNEL_STATISTICS = 5  # computed by features/kernels.py for each random convolution


def functionals_count(statistics: bool, kernels: int) -> int:
    """Number of functionals of a clip at each speed, from the fields of config.functionals."""
    return FUNCTIONALS * statistics + KERNEL_STATISTICS * kernels


def channels(audio: Mapping) -> int:
    """Number of channels of the log-mels that the fields of config.audio describe."""
    return audio["mels"] + len(CONTOURS) * audio["contours"]
