"""probe: a linear probe of every layer of a published Whisper (Radford et al. 2022), under leave-one-speaker-out.

Closed-form ridge regression. Input: mean and deviation of the encoder's states over each clip's time. `states.weights`
is an openai-whisper name or the path of a .pt file. Layer and penalty are chosen inside the training speakers of each
fold, and the model of that layer's states is kept. Cost: the states are computed once and cached (--mode=precompute
does that alone, on a GPU if there is one); the probe then takes under a minute on two cores, even of the largest model.

    python main.py --config=configs/probe.py --mode=probe --config.states.weights=base
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "probe"
    config.split.protocol = "loso24"
    config.split.fold = "all"
    config.audio.trim_db = 0.0  # Whisper was trained on sound as it is
    config.model.functionals = "states"
    config.states.weights = "base"
    config.split.dev_share = 0.0  # there is no epoch for dev speakers to choose
    return config
