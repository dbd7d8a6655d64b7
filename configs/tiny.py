"""tiny: a model that trains in seconds on the built-in synthetic corpus, for tests and for a first try.

Input: log-mels.

    python main.py --config=configs/tiny.py
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "tiny"
    config.data.corpus = "synthetic"
    config.data.buckets = 2
    config.audio.mels = 16
    config.model.audio = "cnn"
    config.model.cnn.channels = (4, 8)
    config.model.head = 16
    config.train.epochs = 3
    return config
