"""How much a model weighs each moment of one recording, in the recording's own time."""

import dataclasses

import numpy as np

from emoflax.inference.model import Model
from emoflax.inference.recordings import Recording
from emoflax.inference.utterances import Gaps


@dataclasses.dataclass(frozen=True)
class Attention:
    """`values` [frames]: 1 is the mean. The first frame begins at `start_s`, the next ones every `hop_s`.

    What comes before and after was cut off as silence.
    """

    start_s: float
    hop_s: float
    values: np.ndarray


def of_recording(model: Model, one: Recording) -> Attention | None:
    """Of the first member that has attention pooling over sound; None where there is none, or no sound to look at."""
    from emoflax.features import recording, spectrum

    for member, utterances, _, _ in model.features([one], Gaps()):
        if member.has_attention and utterances and len(utterances[0].logmel):
            audio = member.config.audio
            wave = recording.at_rate(one.samples, one.rate_hz, audio.sample_rate_hz)
            first = spectrum.trimmed_span(wave, audio.trim_db)[0] if audio.trim_db else 0
            values = member.attention(utterances[0])
            return Attention(first / audio.sample_rate_hz, audio.hop_ms / 1000, values)
    return None
