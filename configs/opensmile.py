"""opensmile: openSMILE's eGeMAPSv02 or ComParE_2016 in the place of our functionals, and the same ridge regression.

The standard sets of the field (Eyben et al. 2016; Schuller et al. 2016) under the same decoding, level, speeds, penalty
and protocols as `functionals`, to compare with. openSMILE is an extra, `pip install 'emoflax[opensmile]'`, free for
research alone: its licence (audEERING) allows no commercial use, which concerns whoever predicts with such a model as
well. Cost: precompute takes about 0.1 s for a clip of 2 s, at three speeds; then a second or two a fold.

    python main.py --config=configs/opensmile.py --config.data.dir=data/ravdess --config.split.fold=all

The other set: --config.functionals.feature_set=ComParE_2016 --config.name=opensmile_compare
"""

from ml_collections import ConfigDict

from emoflax.configs import functionals


def get_config() -> ConfigDict:
    config = functionals.get_config()
    config.name = "opensmile"
    config.functionals.feature_set = "eGeMAPSv02"
    return config
