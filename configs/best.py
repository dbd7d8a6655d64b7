"""best: three views of the sound, chosen, weighted and scored under nested evaluation.

`attention_cnn` (log-mels and contours, learned from scratch), `functionals` (statistics over the clip, ridge
regression) and `aligned` (random convolutions part by part of what is said, ridge regression). For each fold, speakers
set aside from the training speakers choose the best one and weigh them all.

    python main.py --mode=crossval --config=configs/best.py --config.data.dir=data/ravdess
"""

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from emoflax.configs import aligned, attention_cnn, functionals


def get_config() -> ConfigDict:
    config = attention_cnn.get_config()
    config.name = "best"
    config.seeds = (0, 1)
    config.split.fold = "all"
    config.crossval.candidates = {
        "attention_cnn": {"evaluate.speeds": (0.9, 1.0, 1.1)},  # as functionals hear every clip, see their config
        "functionals": changes(config, functionals.get_config()),
        "aligned": changes(config, aligned.get_config()),
    }
    return config


def changes(config: ConfigDict, other: ConfigDict) -> dict:
    """The fields of a candidate's own in which it differs from the config, by dotted name."""
    here, there = (flatten_dict(each.to_dict(), sep=".") for each in (config, other))
    own = ("audio.", "functionals.", "augment.", "model.", "optimizer.", "train.")
    return {field: value for field, value in there.items() if field.startswith(own) and here[field] != value}
