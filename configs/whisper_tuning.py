"""whisper_tuning: what fine-tuning a published Whisper brings, beside the frozen one, on inner splits alone.

Inside each fold of `emobox6` four of the 20 training actors are inner validation speakers; no test clip is scored. The
candidates: ridge regression of frozen states (`whisper_states`, and `ridge`: of the input and at the one speed that the
others have), a head that is trained on them, the upper two layers unfrozen (`whisper_finetuned`), and low-rank adapters
(`whisper_lora`).

    python main.py --mode=crossval --config=configs/whisper_tuning.py --config.data.dir=data/ravdess
"""

from ml_collections import ConfigDict

from emoflax.configs import whisper_finetuned, whisper_lora, whisper_states
from emoflax.configs.best import changes


def get_config() -> ConfigDict:
    config = whisper_lora.get_config()
    config.name = "whisper_tuning"
    frozen = whisper_states.get_config()
    config.states = frozen.states
    config.crossval.final = False
    config.crossval.inner_share = 0.2
    config.crossval.candidates = {
        "states": changes(config, frozen),
        "ridge": {"model.lora.rank": 0, "optimizer.learning_rate": 0.0, "train.epochs": 1},
        "head": {"model.lora.rank": 0, "train.start": "random", "optimizer.learning_rate": 1e-3},
        "upper_layers": changes(config, whisper_finetuned.get_config()),
        "lora": {},
    }
    return config
