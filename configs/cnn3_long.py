"""cnn3_long: cnn3 with the augmentation and the longer schedule of configs/cnn2_long.py.

Input: log-mels, stretched, warped and masked anew for every clip and step. Cost: about three times that of cnn3.

    python main.py --config=configs/cnn3_long.py --config.data.dir=data/ravdess
"""

from ml_collections import ConfigDict

from emoflax.configs import cnn2_long, cnn3


def get_config() -> ConfigDict:
    return cnn2_long.augmented(cnn3.get_config())
