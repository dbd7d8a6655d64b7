"""attention_cnn: a compact temporal convolutional network with attentive statistics pooling.

Input: log-mels, and beside them contours of pitch, voice quality, formants and spectral shape; both are augmented.
Dilated residual convolutions (Bai et al. 2018, arXiv:1803.01271), pooling of Okabe et al. 2018 (arXiv:1803.10963).
Cost: under 10 minutes for all six folds of RAVDESS on two cores, one seed.

    python main.py --config=configs/attention_cnn.py
    python main.py --mode=predict --explain --config=configs/attention_cnn.py --inputs=speech.wav
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "attention_cnn"
    config.audio.contours = True
    config.model.audio = "attention_cnn"
    config.model.pooling = "attention"
    config.train.epochs = 40
    config.train.label_smoothing = 0.1
    config.optimizer.learning_rate = 4e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_epochs = 3.0
    config.augment.update(
        stretch=0.1, vtlp=0.05, shift_bands=2.0, gain_db=4.0, tilt_db=8.0, contour_shift=0.2, contour_drop=0.1,
        time_masks=1, time_mask_share=0.12, band_masks=1, band_mask_share=0.12,
    )  # fmt: skip
    return config
