"""whisper: Whisper's audio encoder (Radford et al. 2022, arXiv:2212.04356), small and from scratch.

Input: Whisper's own log-mels. 0.4 million parameters. Cost: 3 minutes on the built-in corpus on one core. The second
command uses published weights (a name, or the path of an openai-whisper .pt file, which then decides the sizes), frozen
under a trained head. A linear probe of all their layers is configs/probe.py.

    python main.py --config=configs/whisper.py
    python main.py --config=configs/whisper.py --config.model.pretrained.audio=base --config.optimizer.freeze=audio
"""

from ml_collections import ConfigDict

from emoflax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.name = "whisper"
    config.audio.frontend = "whisper"
    config.audio.window_ms = 25.0
    config.audio.hop_ms = 10.0
    config.audio.mels = 80
    config.audio.fmin_hz = 0.0
    config.model.audio = "whisper"
    config.optimizer.learning_rate = 5e-4
    return config
