"""Published results that stand beside a headline, where corpus and protocol are the same.

Sources and what they did: docs/evaluation.md, "Literature on RAVDESS speech".
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """A score in %; `pretrained`: whether the encoder was trained on other speech before."""

    model: str
    score: float
    source: str
    pretrained: bool
    metric: str = "UAR"


_EMOBOX, _LOSO = "EmoBox, Ma et al. 2024", "hsn07pk/ravdess-speaker-independent-ser"
_LISTENERS = Published("listeners", 62.4, "docs/evaluation.md", False, "accuracy")
_RAVDESS = {
    "emobox6": (
        Published("Whisper-large-v3", 75.3, _EMOBOX, True),
        Published("WavLM-L", 72.0, _EMOBOX, True),
    ),
    "luna5": (Published("ResLSTM-SA", 62.3, "Luna-Jiménez et al. 2022, tuned on test folds", False),),
    "loso24": (
        Published("XLS-R 300M", 81.9, _LOSO, True),
        Published("WavLM-L", 81.3, _LOSO, True),
        Published("Whisper-large-v3", 80.2, _LOSO, True),
        Published("ComParE and logistic regression", 63.6, _LOSO, False),
        Published("eGeMAPS and logistic regression", 53.1, _LOSO, False),
    ),
}


def beside(corpus: str, protocol: str) -> tuple[Published, ...]:
    """What was published for that corpus under that protocol; empty where nothing comparable is known."""
    published = _RAVDESS.get(protocol, ()) if corpus == "ravdess" else ()
    return (*published, _LISTENERS) if published else ()
