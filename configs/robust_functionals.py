"""robust_functionals: functionals for other people's recordings: the fit takes disturbed copies of each clip as well.

Input: functionals of every training clip at three speeds, and of two copies in rooms, noise, babble and narrow bands
(`emoflax/features/disturb.py`). Left-out training speakers choose the penalty; the temperature is that of clips as they
were recorded. The same with any closed-form model: --config.data.copies=2. Cost: precompute takes twice as long as for
functionals, a fit half a minute.

    python main.py --config=configs/robust_functionals.py --config.data.dir=data/ravdess --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import functionals


def get_config() -> ConfigDict:
    config = functionals.get_config()
    config.name = "robust_functionals"
    config.data.copies = 2
    return config
