"""fusion_late: sound and words each have their say, and learned weights combine the two.

    python main.py --config=configs/fusion_late.py

Any audio encoder goes with any text encoder: `--config.model.audio=... --config.model.text=...`. Without one of them it
is that fusion's unimodal parent, trained in the same way. A recording whose words cannot be had is predicted from its
sound, and a text file from its words.
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "fusion_late"
    config.model.audio = "cnn"
    config.model.text = "gru"
    config.model.fusion = "late"
    config.model.pooling = "attention"
    config.model.modality_dropout.update(audio=0.1, text=0.1)
    return config
