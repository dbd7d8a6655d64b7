"""cnn2: the older work's model, two convolutional layers on the log-mel spectrogram.

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
