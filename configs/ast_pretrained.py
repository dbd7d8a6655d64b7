"""ast_pretrained: published weights of the Audio Spectrogram Transformer (Gong et al. 2021), fine-tuned.

Input: Kaldi's log-mels with 128 bands, scaled by the published mean and deviation. FOLDER holds a Hugging Face AST,
such as the one that was trained on AudioSet: config.json and model.safetensors. Nothing is downloaded; the folder
decides sizes and mels. Clips are trimmed and their padding is masked, whereas the published model attends to padding up
to 10 s. Cost: it needs a GPU.

    python main.py --config=configs/ast_pretrained.py --config.model.pretrained.audio=FOLDER
"""

from ml_collections import ConfigDict

from emoflax.configs import ast


def get_config() -> ConfigDict:
    config = ast.get_config()
    config.name = "ast_pretrained"
    config.audio.frontend = "kaldi"
    config.audio.hop_ms = 10.0
    config.audio.mels = 128
    config.audio.fmin_hz = 20.0
    config.model.ast.update(width=768, layers=12, heads=12, hidden=3072, max_frames=600)
    config.model.ast.dropout = 0.0
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.layer_decay = 0.75
    config.train.epochs = 10
    return config
