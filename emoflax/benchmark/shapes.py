"""Models by name, for benchmarks that take several: packaged configs, and the sizes of published encoders."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from emoflax.benchmark import script
from emoflax.errors import UserError

WITH_TWIN = ("cnn2", "cnn3", "attention_cnn", "gru")  # of which PyTorch has one, too
# name -> packaged config, and the fields that give it the published size: Whisper (Radford et al. 2022,
# arXiv:2212.04356, table 1), wav2vec 2.0 base (Baevski et al. 2020, arXiv:2006.11477, section 4.2).
_WAV2VEC2 = {"width": 768, "layers": 12, "heads": 12, "hidden": 3072, "channels": (512,) * 7, "extractor_norm": "group"}
PUBLISHED: Mapping[str, tuple[str, Mapping]] = {
    "whisper_tiny": ("whisper", {"width": 384, "layers": 4, "heads": 6}),
    "whisper_base": ("whisper", {"width": 512, "layers": 6, "heads": 8}),
    "wav2vec2_base": ("wav2vec2_pretrained", _WAV2VEC2),
}
NAMES = (*WITH_TWIN, "bert", *PUBLISHED)


def config_of(name: str) -> ConfigDict:
    """The config of one of NAMES.

    Raises:
      UserError: there is no such name.
    """
    if name not in NAMES:
        raise UserError(f"--models: {name!r} is not one of: {', '.join(NAMES)}")
    packaged, sizes = PUBLISHED.get(name, (name, {}))
    config = script.load_config(packaged)
    config.name = name
    if sizes:
        config.model[config.model.audio].update(sizes)
    return config


def shrink(config: ConfigDict) -> None:
    """Makes any of these compute for milliseconds on a processor, with the same layers."""
    model, waves = config.model, config.audio.frontend == "waveform"
    config.audio.update(hop_ms=config.audio.hop_ms if waves else 50.0, mels=config.audio.mels if waves else 16)
    config.train.batch_size, model.head = 4, 5 if model.head else 0
    model.cnn.channels = (3, 4, 5)[: len(model.cnn.channels)]
    model.attention_cnn.update(width=6, dilations=(1, 2))
    model.attention.update(heads=2, hidden=3)
    model.gru.update(hidden=7, embedding=6)
    model.bert.update(width=8, layers=1, heads=2, hidden=8)
    model.whisper.update(width=8, layers=1, heads=2)
    model.wav2vec2.update(width=8, layers=1, heads=2, hidden=8, channels=(4,) * 7, positions=(8, 2, 1))
