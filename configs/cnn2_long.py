"""cnn2_long: cnn2 with augmentation of its log-mels, and three times as many epochs, which that takes.

Input: log-mels, stretched, warped and masked anew for every clip and step. Cost: about three times that of cnn2.

    python main.py --config=configs/cnn2_long.py --config.data.dir=data/ravdess
"""

from ml_collections import ConfigDict

from emoflax.configs import cnn2


def get_config() -> ConfigDict:
    return augmented(cnn2.get_config())


def augmented(config: ConfigDict) -> ConfigDict:
    config.name = f"{config.name}_long"
    config.train.epochs = 3 * config.train.epochs
    config.augment.update(
        stretch=0.1, vtlp=0.05, shift_bands=1.0, tilt_db=4.0, time_masks=1, time_mask_share=0.12, band_masks=1,
        band_mask_share=0.12,
    )  # fmt: skip
    return config
