"""probe: what each layer of a published Whisper tells about the emotion, under leave-one-speaker-out.

    python main.py --config=configs/probe.py --mode=probe --config.states.weights=base

Any openai-whisper name or the path of a .pt file. Layer and regularisation are chosen inside the training speakers of
each fold. The states are computed once and cached (--mode=precompute alone does that, on a GPU if there is one); the
probe itself then takes well under a minute on two cores, even of the largest model.
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "probe"
    config.split.protocol = "loso24"
    config.split.fold = "all"
    config.audio.trim_db = 0.0  # Whisper was trained on sound as it is
    config.states.weights = "base"
    return config
