"""fusion_hybrid: cross-attention between frames and tokens, joined with what each modality says alone.

python main.py --config=configs/fusion_hybrid.py
"""

from ml_collections import ConfigDict

from emoflax.configs import fusion_late


def get_config() -> ConfigDict:
    config = fusion_late.get_config()
    config.name = "fusion_hybrid"
    config.model.fusion = "hybrid"
    return config
