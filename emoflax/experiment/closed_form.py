"""Models that are solved for, not descended to (config.model.functionals): what they hear, and how they are fitted."""

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from emoflax import models
from emoflax.audio.channels import FRAME_MS
from emoflax.data import speakernorm, splits
from emoflax.data.features import Features, functionals_rows, logmel_rows
from emoflax.errors import UserError
from emoflax.models import ridge


def check(config: ConfigDict) -> None:
    """Raises UserError for settings with which there would be nothing to hear."""
    name, speeds = config.model.functionals, config.functionals.speeds
    if not (speeds and all(0.5 <= speed <= 2 for speed in speeds)):
        raise UserError(f"config.functionals.speeds={speeds}: one or more from 0.5 to 2; (1.0,) is what was recorded")
    if name not in models.FRAME_LEVEL_MODELS:
        return
    if not config.audio.contours or config.audio.hop_ms != FRAME_MS:
        raise UserError(
            f"config.model.functionals={name!r} hears contours as they are measured: set config.audio.contours=True "
            f"and config.audio.hop_ms={FRAME_MS:g}"
        )
    if splits.by_speaker(config.split.protocol):
        raise UserError(
            f"config.model.functionals={name!r} knows how contours usually lie; {speakernorm.SUFFIX} moves them"
        )


def audio_of_speeds(config: ConfigDict) -> dict[float, dict]:
    """Speed -> fields of config.audio, and the speed, that a model in `models.FRAME_LEVEL_MODELS` hears."""
    audio = config.audio.to_dict()
    return {speed: audio | ({} if speed == 1 else {"speed": speed}) for speed in config.functionals.speeds}


def fit(
    config: ConfigDict, model: nnx.Module, features: Features, clips: np.ndarray, label: np.ndarray
) -> ridge.Solution:
    """Fits a model of functionals to the training clips; `label`: number of each one's label."""
    frames = config.model.functionals in models.FRAME_LEVEL_MODELS
    rows, place = (logmel_rows if frames else functionals_rows)(features, clips)
    known = [features.corpus.clips[i] for i in clips]
    speaker, text = np.array([clip.speaker for clip in known]), np.array([clip.text or "" for clip in known])
    beside = (text[place],) if frames else ()
    return model.fit(rows, label[place], speaker[place], *beside)
