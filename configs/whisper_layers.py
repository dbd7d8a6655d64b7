"""whisper_layers: a learned sum of a frozen Whisper's layers and a linear head, as in SUPERB.

The same states as `whisper_states`, of all layers: their weights are a softmax that is learned with the head (Yang et
al. 2021, arXiv:2105.01051). A hidden layer: --config.model.layer_sum.hidden=128. Left-out training speakers choose the
penalty and the temperature. Cost: the states are computed once and cached; then about a minute a fold on two cores.

    python main.py --config=configs/whisper_layers.py --config.states.weights=tiny.en --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import whisper_states


def get_config() -> ConfigDict:
    config = whisper_states.get_config()
    config.name = "whisper_layers"
    config.model.functionals = "layer_sum"
    config.states.layers = ()
    return config
