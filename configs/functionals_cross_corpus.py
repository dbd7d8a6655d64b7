"""functionals_cross_corpus: functionals for recordings of other corpora, microphones and languages; closed-form.

Input: 834 of the 4,530 functionals: how much pitch, loudness, spectrum and voice quality vary, how fast, how often they
peak, and how high the pitch is; without what tells the sentence, the speaker or the microphone. The penalty is strong:
left-out speakers of the training corpus would choose a weak one, which is right for that corpus alone. Chosen on
RAVDESS, TESS and URDU (docs/experiments.md). Cost: as `functionals`, at one speed.

    python main.py --config=configs/functionals_cross_corpus.py --config.data.corpus=ravdess,emovo --config.data.dir=P,P
"""

from ml_collections import ConfigDict

from emoflax.configs import functionals


def get_config() -> ConfigDict:
    config = functionals.get_config()
    config.name = "functionals_cross_corpus"
    config.split.fold = "all"
    config.train.balance_corpora = True
    config.functionals.speeds = (1.0,)
    config.functionals.leave_out = ("course", "levels", "bands")
    config.model.ridge.update(ridges=(100.0,), scale_power=1.0)
    return config
