"""Stand-ins for the published weights that packaged configs name and a hub would send."""

import pathlib

import hugging_face
import tiny_whisper
from ml_collections import ConfigDict


def put(config: ConfigDict, folder: pathlib.Path) -> None:
    """Writes small random ones into the folder and names them in the config, where it names some."""
    if config.states.weights and config.states.encoder == "bert":
        hugging_face.bert(folder)
        config.states.update(weights=str(folder), layers=())
    elif config.states.weights or config.model.pretrained.audio:
        weights = str(tiny_whisper.write(folder / "tiny.pt", audio_layers=4))
        for group, field in ((config.states, "weights"), (config.model.pretrained, "audio")):
            if group[field]:
                group[field] = weights
