"""whisper_finetuned: the upper layers of a published Whisper (Radford et al. 2022, arXiv:2212.04356), trained further.

Mean and deviation over time of layers 1 to 3, as in `whisper_states`, and a linear head that begins as that ridge
regression. Layers 2 and 3 train with the head, the lower one more slowly; what is below them stays. Clips lose silence
at both ends and are followed by half a second of it, in the place of Whisper's 30 s in all: a step costs a twelfth.
model.pretrained.audio is an openai-whisper name, its .pt file, or a Hugging Face or CTranslate2 folder.

    python main.py --config=configs/whisper_finetuned.py --config.model.pretrained.audio=tiny.en
"""

from ml_collections import ConfigDict

from emoflax.configs import whisper


def get_config() -> ConfigDict:
    config = whisper.get_config()
    config.name = "whisper_finetuned"
    config.model.layers = (1, 2, 3)
    config.model.pooling = "mean_std"
    config.model.pretrained.audio = "tiny.en"
    config.model.whisper.update(dropout=0.0, silence_s=0.5)
    config.optimizer.freeze = "audio.stem,audio.layers.0"
    config.optimizer.layer_decay = 0.7
    config.optimizer.learning_rate = 3e-5
    config.optimizer.warmup_epochs = 0.5
    config.train.epochs = 4
    config.train.start = "ridge"
    config.augment.update(stretch=0.1, vtlp=0.05, gain_db=4.0, time_masks=1, band_masks=1)
    return config
