"""best: three models of the sound under nested evaluation: the best of them, and their ensemble.

`attention_cnn` (log-mels and contours, a network), `functionals` (statistics over the clip, ridge regression) and
`aligned` (random convolutions, part by part of the text, ridge regression). For each fold, inner validation speakers,
who are some of the training speakers, choose the best model and the ensemble's weights; then the test clips are scored
once. Cost: the longest of all configs, dominated by the network; docs/results.md has the measured minutes, and
configs/closed_form.py is the same without the network.

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
    config.train.save_epochs = 10  # the last epoch is used: scoring and saving each one would cost a third of the time
    config.crossval.candidates = {
        "attention_cnn": {"evaluate.speeds": (0.9, 1.0, 1.1)},  # test-time augmentation with functionals' speeds
        "functionals": changes(config, functionals.get_config()),
        "aligned": changes(config, aligned.get_config()),
    }
    return config


def changes(config: ConfigDict, other: ConfigDict) -> dict:
    """The fields, by dotted name, in which a candidate's config differs from this one, as far as candidates may."""
    here, there = (flatten_dict(each.to_dict(), sep=".") for each in (config, other))
    own = ("audio.", "functionals.", "augment.", "model.", "optimizer.", "train.")
    return {field: value for field, value in there.items() if field.startswith(own) and here[field] != value}
