"""closed_form: `best` without its network, for processors and for protocols of many folds; minutes instead of an hour.

`functionals` (statistics over the clip) and `aligned` (random convolutions part by part of what is said), each ridge
regression. For each fold, speakers set aside from the training speakers choose one and weigh both.

    python main.py --mode=crossval --config=configs/closed_form.py --config.data.dir=data/ravdess
"""

from ml_collections import ConfigDict

from emoflax.configs import best


def get_config() -> ConfigDict:
    config = best.get_config()
    config.name = "closed_form"
    config.seeds = (0,)  # nothing is drawn
    config.crossval.candidates = {name: config.crossval.candidates[name] for name in ("functionals", "aligned")}
    return config
