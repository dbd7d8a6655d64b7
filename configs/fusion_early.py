"""fusion_early: frames and tokens as one sequence through a common Transformer trunk.

Input: log-mels and the words. Cost: about two minutes a fold of RAVDESS on two cores, transcription not included.

    python main.py --config=configs/fusion_early.py
"""

from ml_collections import ConfigDict

from emoflax.configs import fusion_late


def get_config() -> ConfigDict:
    config = fusion_late.get_config()
    config.name = "fusion_early"
    config.model.fusion = "early"
    return config
