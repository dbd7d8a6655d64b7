"""cnn3: three convolutional layers on the log-mel spectrogram, more dropout than configs/cnn2.py.

Input: log-mels. Cost: about two minutes a fold of RAVDESS on two cores.

    python main.py --config=configs/cnn3.py
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "cnn3"
    config.model.audio = "cnn"
    config.model.cnn.channels = (32, 64, 128)
    config.model.dropout = 0.5
    return config
