"""robust: attention_cnn for other people's recordings: it learns from copies in rooms, noise, babble and narrow bands.

Input: log-mels with contours, of every training clip as it was recorded and of a disturbed copy, in which contours
are measured anew as they will be in a noisy recording (`emoflax/features/disturb.py`). What a disturbance costs a
trained model: `python -m emoflax.benchmark.robustness`. Cost: precompute takes three times as long as for
attention_cnn, training a quarter longer.

    python main.py --config=configs/robust.py --config.data.dir=data/ravdess --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import attention_cnn


def get_config() -> ConfigDict:
    config = attention_cnn.get_config()
    config.name = "robust"
    config.data.copies = 1
    config.train.epochs = 25  # of twice as many rows
    return config
