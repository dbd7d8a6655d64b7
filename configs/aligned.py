"""Random convolutions summed up over each part of the sentence, and ridge regression: for texts that all actors say.

Every clip is aligned to a template of its text, made of the training clips; what is kept is how often each kernel
responds in each eighth of it. Solved, not descended to, in seconds.

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
