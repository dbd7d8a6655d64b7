"""closed_form: configs/best.py without its network, for machines without a GPU and protocols of many folds.

`functionals` (statistics over the clip) and `aligned` (random convolutions, part by part of the text), both with ridge
regression. For each fold, inner validation speakers choose one of them and the weights of both. Cost: about 10 minutes
for the five folds of `luna5` on two cores.

    python main.py --mode=crossval --config=configs/closed_form.py --config.data.dir=data/ravdess
"""

from ml_collections import ConfigDict

from emoflax.configs import best


def get_config() -> ConfigDict:
    config = best.get_config()
    config.name = "closed_form"
    config.seeds = (0,)  # deterministic: another seed gives the same model
    config.crossval.candidates = {name: config.crossval.candidates[name] for name in ("functionals", "aligned")}
    return config
