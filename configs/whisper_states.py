"""whisper_states: mean and deviation of a frozen Whisper's layers, and ridge regression; closed-form.

Input: the encoder's states (Radford et al. 2022, arXiv:2212.04356), of each clip at three speeds. `states.weights` is
an openai-whisper name such as base or large-v3, its .pt file, or a Hugging Face or CTranslate2 folder. Layers 1 to 3
fit tiny and tiny.en; of a larger model take the middle ones, or all: --config.states.layers="()". Left-out training
speakers choose the penalty and the temperature of the probabilities. Cost: the states are computed once and cached;
then less than half a minute a fold on two cores.

    python main.py --config=configs/whisper_states.py --config.states.weights=tiny.en --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "whisper_states"
    config.audio.trim_db = 0.0  # Whisper was trained on sound as it is
    config.functionals.speeds = (1.0, 0.9, 1.1)
    config.model.functionals = "states"
    config.states.weights = "tiny.en"
    config.states.silence_s = 0.5  # Whisper was trained with up to 30; 5 took twice as long and was no better
    config.states.layers = (1, 2, 3)
    config.split.dev_share = 0.0  # there is no epoch for dev speakers to choose
    return config
