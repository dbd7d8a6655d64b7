"""wav2vec2_pretrained: published wav2vec 2.0, HuBERT, WavLM or data2vec-audio weights, fine-tuned.

Input: the waveform at 16 kHz. FOLDER holds a Hugging Face model: config.json, model.safetensors and
preprocessor_config.json, which decide sizes and normalisation. First the head learns, then one layer more every half
epoch, from the top; the convolutions stay as they are. Cost: it needs a GPU. The second command is for another of the
four: hubert, wavlm or data2vec_audio.

    python main.py --config=configs/wav2vec2_pretrained.py --config.model.pretrained.audio=FOLDER
    python main.py --config=configs/wav2vec2_pretrained.py --config.model.pretrained.audio=FOLDER \\
        --config.model.audio=wavlm
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "wav2vec2_pretrained"
    config.data.store = "wave"
    config.audio.frontend = "waveform"
    config.audio.window_ms = 20.0
    config.audio.hop_ms = 20.0
    config.audio.mels = 320  # samples of a frame
    config.audio.fmin_hz = 0.0
    config.model.audio = "wav2vec2"
    config.model.pooling = "mean"
    config.model.dropout = 0.1
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.layer_decay = 0.85
    config.optimizer.freeze = "audio.stem.convolutions"
    config.optimizer.unfreeze_epochs = 0.5
    config.train.epochs = 15
    config.train.batch_size = 8
    return config
