"""sweep: a search for cnn2's settings on the training speakers of fold 1.

    python main.py --config=configs/sweep.py --mode=sweep

What it finds, runs/sweep-ravdess-emobox6-sweep/best.json, are flags for --config=configs/cnn2.py.
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
