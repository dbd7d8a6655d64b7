"""robust: attention_cnn for other people's recordings: trained under rooms, noise, babble and codecs.

Input: waveforms, of which each step makes log-mels after it has disturbed them; without contours, which would have to
be measured anew. Silence at the ends stays (audio.trim_db=0): in a noisy recording it cannot be told from the rest.
What a disturbance costs a trained model: `python -m emoflax.benchmark.robustness`. Cost: about three times that of
attention_cnn.

    python main.py --config=configs/robust.py --config.data.dir=data/ravdess --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import attention_cnn


def get_config() -> ConfigDict:
    config = attention_cnn.get_config()
    config.name = "robust"
    config.data.store = "wave"
    config.audio.contours = False
    config.audio.trim_db = 0.0
    config.train.epochs = 60
    config.augment.update(contour_shift=0.0, contour_drop=0.0)
    config.augment.wave.update(
        crop=0.2, speed=0.05, room=0.3, room_rt60_s=(0.2, 1.0), room_direct_db=(0.0, 15.0), noise=0.3,
        noise_snr_db=(0.0, 30.0), babble=0.3, babble_snr_db=(0.0, 25.0), band=0.4,
    )  # fmt: skip
    return config
