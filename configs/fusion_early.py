"""fusion_early: frames and tokens as one sequence in front of a common Transformer trunk.

python main.py --config=configs/fusion_early.py
"""

from ml_collections import ConfigDict

from emoflax.configs import fusion_late


def get_config() -> ConfigDict:
    config = fusion_late.get_config()
    config.name = "fusion_early"
    config.model.fusion = "early"
    return config
