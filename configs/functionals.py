"""functionals: statistics of prosody, spectrum and voice quality over the clip, and ridge regression; closed-form.

Input: functionals of low-level descriptors as in the Geneva Minimalistic Acoustic Parameter Set (Eyben et al. 2016).
Left-out training speakers choose the penalty and the temperature of the probabilities. Cost: a second or two a fold;
precompute takes about 40 ms for a clip of 2 s.

    python main.py --config=configs/functionals.py --config.data.dir=data/ravdess --config.split.fold=all
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "functionals"
    config.functionals.speeds = (1.0, 0.9, 1.1)
    config.model.functionals = "ridge"
    config.split.dev_share = 0.0  # there is no epoch for dev speakers to choose
    return config
