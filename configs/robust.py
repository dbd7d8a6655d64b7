"""robust: attention_cnn for other people's recordings: it learns from copies in rooms, noise, babble and narrow bands.

Input: log-mels with contours, of every training clip as it was recorded and of four disturbed copies, in which contours
are measured anew as they will be in a noisy recording (`emoflax/features/disturb.py`). New clips are judged at three
speeds. What a disturbance costs a trained model: `python -m emoflax.benchmark.robustness`. Cost: precompute takes about
ten times as long as for attention_cnn, and training, of twice as many rows in all, up to twice as long.

    python main.py --config=configs/robust.py --config.data.dir=data/ravdess --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import attention_cnn


def get_config() -> ConfigDict:
    config = attention_cnn.get_config()
    config.name = "robust"
    config.data.copies = 4
    config.train.epochs = 16  # of five times as many rows
    config.evaluate.speeds = (0.9, 1.0, 1.1)
    return config
