"""fusion_hybrid: cross-attention between frames and tokens (Tsai et al. 2019, arXiv:1906.00295), and each one alone.

Input: log-mels and the words. Cost: about two minutes a fold of RAVDESS on two cores, transcription not included.

    python main.py --config=configs/fusion_hybrid.py
"""

from ml_collections import ConfigDict

from emoflax.configs import fusion_late


def get_config() -> ConfigDict:
    config = fusion_late.get_config()
    config.name = "fusion_hybrid"
    config.model.fusion = "hybrid"
    return config
