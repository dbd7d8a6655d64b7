"""whisper_lora: a published Whisper with low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685).

As `whisper_finetuned`, but the encoder's own weights stay as they are: two small matrices beside the queries and the
values of every layer are trained, with the head.

    python main.py --config=configs/whisper_lora.py --config.model.pretrained.audio=tiny.en
"""

from ml_collections import ConfigDict

from emoflax.configs import whisper_finetuned


def get_config() -> ConfigDict:
    config = whisper_finetuned.get_config()
    config.name = "whisper_lora"
    config.model.lora.update(rank=8, alpha=16.0, targets=("query", "value"))
    config.optimizer.freeze = "encoders"
    config.optimizer.layer_decay = 1.0
    config.optimizer.learning_rate = 1e-4
    return config
