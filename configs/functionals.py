"""Statistics of prosody, spectrum and voice quality over the clip, and ridge regression: a second view beside the CNNs.

No step of an optimizer is taken: the weights are solved for, and left-out training speakers choose the penalty and how
sure the answers are. Fitting a fold takes a second or two; precompute about 40 ms per clip of 2 s.

    python main.py --config=configs/functionals.py --config.data.dir=data/ravdess --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "functionals"
    config.functionals.speeds = (1.0, 0.9, 1.1)
    config.model.functionals = "ridge"
    config.split.dev_share = 0.0  # nothing is left for dev speakers to choose
    config.train.epochs = 1
    config.train.batch_size = 64
    config.optimizer.learning_rate = 0.0
    config.optimizer.warmup_epochs = 0.0
    return config
