"""fusion_late: one classifier of the sound, one of the words, and learned weights that combine their outputs.

Input: log-mels and the words. Any audio encoder goes with any text encoder: `--config.model.audio=...
--config.model.text=...`; with one of them set to '' it is the fusion's unimodal parent, trained in the same way. After
training, a recording without a transcript is predicted from its sound, and a text file from its words. Cost: about two
minutes a fold of RAVDESS on two cores, transcription not included.

    python main.py --config=configs/fusion_late.py
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
