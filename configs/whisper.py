"""whisper: Whisper's audio encoder on Whisper's log-mel, small and from scratch; sizes of 0.4 M parameters.

    python main.py --config=configs/whisper.py

With published weights (a name, or the path of an openai-whisper .pt file), frozen under a trained head:

    python main.py --config=configs/whisper.py --config.model.pretrained.audio=base --config.optimizer.freeze=audio

The weights then decide the sizes. A linear probe of all their layers is configs/probe.py.
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
