"""cnn2: two convolutional layers on the log-mel spectrogram, the seed project's model; where to begin.

Input: log-mels. Cost: about a minute a fold of RAVDESS on two cores.

    python main.py --config=configs/cnn2.py
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "cnn2"
    config.model.audio = "cnn"
    config.model.cnn.channels = (32, 64)
    return config
