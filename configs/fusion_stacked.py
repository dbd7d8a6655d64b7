"""fusion_stacked: a model of the sound and one of the words, trained apart; what each counts is learned last.

`functionals` (statistics over the clip, ridge regression) and `gru` (the words), stacked (Wolpert 1992,
doi:10.1016/S0893-6080(05)80023-1): their log-probabilities are added with weights, not below 0, under which the labels
of inner validation speakers are likeliest. A model that does not help speakers without a part in the weights is left
out, such as the words of RAVDESS, which tell nothing, in most folds (docs/experiments.md).
Cost: ten minutes for the six folds of RAVDESS on two cores, transcription not included.

    python main.py --mode=crossval --config=configs/fusion_stacked.py --config.text.source=whisper
"""

from ml_collections import ConfigDict

from emoflax.configs import functionals, gru
from emoflax.configs.best import changes


def get_config() -> ConfigDict:
    config = gru.get_config()
    config.name = "fusion_stacked"
    config.split.fold = "all"
    config.train.save_epochs = 8  # the last epoch is used
    config.crossval.candidates = {"functionals": changes(config, functionals.get_config()), "gru": {}}
    return config
