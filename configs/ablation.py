"""ablation: what each part of configs/attention_cnn.py is worth, and what some parts that it lacks would be.

Ten candidates: `attention_cnn`, and nine variants of it with one change each. All are trained on the same inner splits
of `emobox6` and scored on inner validation speakers; no test clip is scored. Cost: 9 minutes a candidate on one core.

    python main.py --mode=crossval --config=configs/ablation.py --config.data.dir=data/ravdess
"""

from ml_collections import ConfigDict

from emoflax.configs import attention_cnn

NO_AUGMENTATION = {
    f"augment.{field}": 0 * value
    for field, value in attention_cnn.get_config().augment.items()
    if isinstance(value, int | float) and not field.endswith("_share")
}


def get_config() -> ConfigDict:
    config = attention_cnn.get_config()
    config.name = "ablation"
    config.split.fold = "all"
    config.crossval.final = False
    config.crossval.candidates = {
        "attention_cnn": {},
        "no_augmentation": NO_AUGMENTATION,
        "no_specaugment": {"augment.time_masks": 0, "augment.band_masks": 0},
        "no_contours": {"audio.contours": False},
        "mean_max_pooling": {"model.pooling": "mean_max"},
        "mixup": {"augment.mixup": 0.3},
        "weight_averaging": {"train.ema": 0.99},
        "pcen": {"model.pcen.time_s": 0.4},
        "contrastive": {"train.contrastive": 0.5},
        "test_time_augmentation": {"evaluate.speeds": (0.9, 1.0, 1.1), "evaluate.band_shifts": (-1.0, 0.0, 1.0)},
    }
    return config
