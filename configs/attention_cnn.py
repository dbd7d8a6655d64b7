"""attention_cnn: a compact temporal convolutional network with attentive statistics pooling, and augmentation.

    python main.py --config=configs/attention_cnn.py
    python main.py --mode=predict --explain --config=configs/attention_cnn.py --inputs=speech.wav
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "attention_cnn"
    config.model.audio = "attention_cnn"
    config.model.pooling = "attention"
    config.train.epochs = 60
    config.train.label_smoothing = 0.1
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_epochs = 3.0
    config.augment.update(
        stretch=0.16, vtlp=0.08, shift_bands=3.0, gain_db=4.0, tilt_db=8.0,
        time_masks=2, time_mask_share=0.12, band_masks=2, band_mask_share=0.12,
    )  # fmt: skip
    return config
