"""sweep: a search for the settings of configs/cnn2.py on the training speakers of fold 1; no test clip is scored.

The result, runs/sweep-ravdess-emobox6-sweep/best.json, holds flags for --config=configs/cnn2.py. Cost: up to 40 trials
of about a minute each on two cores.

    python main.py --config=configs/sweep.py --mode=sweep
"""

from ml_collections import ConfigDict

from emoflax.configs import cnn2


def get_config() -> ConfigDict:
    config = cnn2.get_config()
    config.name = "sweep"
    config.sweep.space = {
        "optimizer.learning_rate": ("log", 3e-4, 1e-2),
        "optimizer.weight_decay": ("log", 1e-4, 1e-1),
        "model.dropout": ("uniform", 0.0, 0.6),
        "train.label_smoothing": ("uniform", 0.0, 0.2),
        "augment.time_masks": ("int", 0, 2),
        "augment.mixup": ("choice", 0.0, 0.2),
        "model.cnn.channels": ("choice", (32, 64), (24, 48)),
    }
    return config
