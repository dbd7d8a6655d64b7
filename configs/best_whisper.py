"""best_whisper: Whisper's states beside the models of the sound, all closed-form, under nested evaluation.

`whisper_states` (mean and deviation of a frozen Whisper's layers), `aligned` (random convolutions, part by part of the
text) and `functionals` (statistics over the clip), all with ridge regression. For each fold, inner validation speakers
choose the best one and the weights of the ensemble; then the test clips are scored once. Cost: four minutes a fold on
two busy cores, most of it for `aligned`; states are computed once and cached.

    python main.py --mode=crossval --config=configs/best_whisper.py --config.states.weights=tiny.en
"""

from ml_collections import ConfigDict

from emoflax.configs import aligned, functionals, whisper_states
from emoflax.configs.best import changes


def get_config() -> ConfigDict:
    config = whisper_states.get_config()
    config.name = "best_whisper"
    config.split.fold = "all"
    config.crossval.candidates = {
        "whisper_states": {},
        "functionals": changes(config, functionals.get_config()),
        "aligned": changes(config, aligned.get_config()),
    }
    return config
