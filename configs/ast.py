"""ast: a small Audio Spectrogram Transformer (Gong et al. 2021, arXiv:2104.01778), trained from scratch.

Input: log-mels, cut into patches of 16 x 16. Cost: 3 minutes on the built-in corpus on one core. With published weights
use configs/ast_pretrained.py.

    python main.py --config=configs/ast.py
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "ast"
    config.audio.window_ms = 25.0
    config.audio.hop_ms = 16.0
    config.audio.mels = 66  # 16 + 5 * 10: six rows of patches, and no mel left over
    config.model.audio = "ast"
    config.model.ast.max_frames = 375
    config.model.pooling = "mean"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_epochs = 3.0
    config.optimizer.weight_decay = 0.05
    config.train.epochs = 30
    return config
