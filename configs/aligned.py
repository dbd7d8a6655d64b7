"""aligned: random convolutions counted in each part of the sentence, and ridge regression; closed-form.

Input: log-mels with contours. For corpora in which all actors speak the same few texts, as in RAVDESS: every clip is
aligned to a template of its text, made of the training clips, and the features are how often each random kernel (as in
ROCKET, Dempster et al. 2020, arXiv:1910.13051) responds in each eighth of it. Cost: about a minute a fold on two cores.

    python main.py --config=configs/aligned.py --config.data.dir=data/ravdess --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import functionals


def get_config() -> ConfigDict:
    config = functionals.get_config()
    config.name = "aligned"
    config.audio.contours = True
    config.audio.window_ms, config.audio.hop_ms, config.audio.mels = 25.0, 10.0, 26
    config.model.functionals = "aligned"
    return config
