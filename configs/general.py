"""general: one model for anyone's recordings: Whisper's states and ridge regression, trained on all corpora you have.

Input: states as in configs/whisper_states.py, of clips without silence at their ends, which differs from corpus to
corpus, at one speed, and in training of two disturbed copies of each. Corpora count the same, and within each its
emotions; a corpus that lacks an emotion says nothing about it. `loco` leaves one corpus out of training at a time and
scores it: what to expect on recordings of another kind. The penalty is chosen in the same way inside of the training
corpora; the temperature is that of the corpus on which the model is most overconfident. `--mode=fit` then trains on
all of them.
Cost: states of 1,440 clips of tiny.en and of their copies take two minutes on two cores, once; then two minutes a fold.

    python main.py --config=configs/general.py --config.data.corpus=ravdess,emovo --config.data.dir=PATH,PATH
"""

from ml_collections import ConfigDict

from emoflax.configs import whisper_states


def get_config() -> ConfigDict:
    config = whisper_states.get_config()
    config.name = "general"
    config.data.corpus = "ravdess,ravdess_song,tess,emovo,urdu"
    config.split.protocol = "loco"
    config.split.fold = "all"
    config.functionals.speeds = (1.0,)
    config.audio.trim_db = 35.0
    config.data.copies = 2  # in noise, babble, rooms and narrow bands; without them noise reads as emotion
    config.train.balance_corpora = True
    config.train.leave_out = "corpus"
    config.model.states.ridges = (1.0, 3.0, 10.0, 30.0, 100.0)  # corpora differ more than speakers do
    return config
