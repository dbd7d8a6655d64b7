"""A small corpus and a cross-validation over its first fold: two networks and both kinds of closed-form models."""

import pathlib

from emoflax.configs import tiny
from emoflax.corpora import synthetic
from emoflax.selection import crossval


def config_in(folder: pathlib.Path, **fields):
    config = tiny.get_config()
    config.data.dir, config.data.cache_dir = str(folder / "voices"), str(folder / "cache")
    config.data.buckets, config.audio.mels, config.model.cnn.channels = 1, 8, (4,)
    config.train.epochs, config.seeds, config.precompute.workers = 2, (3, 4), 1
    config.report.html = False  # a page takes seconds
    config.optimizer.learning_rate = 2e-2
    statistics = {
        "model.audio": "",
        "model.functionals": "ridge",
        "functionals.speeds": (0.95, 1.05),
        "train.epochs": 1,
    }
    aligned = statistics | {
        "model.functionals": "aligned",
        "functionals.speeds": (1.0,),
        "audio.contours": True,
        "audio.hop_ms": 10.0,
    }
    config.model.aligned.update(states=4, parts=2, kernels=8, texts=2)
    config.crossval.candidates = {"network": {}, "statistics": statistics, "aligned": aligned}
    config.update_from_flattened_dict(fields)
    return config


def make(folder: pathlib.Path, **fields):
    """The config, its corpus of six speakers, and the result of the cross-validation."""
    if not (folder / "voices").exists():
        synthetic.make(folder / "voices", speakers=6, clips_per_emotion=1)
    config = config_in(folder, **fields)
    corpus = crossval.open_features(config).corpus
    place = crossval.run_folder_of(folder / "runs", config, corpus)
    place.mkdir(parents=True, exist_ok=True)
    return config, corpus, crossval.run(config, corpus, place)
