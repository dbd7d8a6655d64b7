"""Models in memory whose normalisation, and for closed-form models whose weights, are those of six short clips."""

import numpy as np
import soundfile

from emoflax.data.clip import Clip, Corpus
from emoflax.experiment import closed_form, evaluate
from emoflax.experiment.features import features_of
from emoflax.experiment.model import build_model, initial_model
from emoflax.experiment.train_config import train_config_of
from emoflax.inference.member import Member
from emoflax.inference.model import Model

LABELS, RATE_HZ = ("angry", "calm"), 16_000


def speech(seed):
    """Harmonics that come and go in a little noise: float32, peak about 0.1."""
    random, t = np.random.default_rng(seed), np.arange(RATE_HZ) / RATE_HZ
    f0 = (120 + 150 * (seed % 2)) * (1 + 0.02 * random.normal())
    tones = sum(np.sin(2 * np.pi * f0 * k * t + k) / k for k in range(1, 12))
    voiced = np.clip(np.sin((5 + random.uniform()) * t), 0, None)
    return (0.05 * tones * voiced + 1e-4 * random.normal(size=len(t))).astype(np.float32)


def write(path, samples):
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return path


def trained(config, folder):
    """A model with the normalisation, and for closed-form models with the weights, of six clips."""
    paths = [write(folder / f"clip{i}.wav", speech(i)) for i in range(6)]
    clips = tuple(Clip(path.stem, LABELS[i % 2], f"s{i // 2}", str(path)) for i, path in enumerate(paths))
    config.data.cache_dir, config.precompute.workers = str(folder / "cache"), 1
    features, everyone = features_of(config, Corpus("toy", LABELS, clips)), np.arange(6)
    if config.model.functionals:
        model = build_model(config, 0, 2, 0)
        closed_form.fit(config, model, features, everyone)
    else:
        model = initial_model(config, features, everyone, (), 0)
    made = train_config_of(config, model, 1)
    description = {"labels": LABELS, "vocabulary": [], "corpus": "toy", "notice": "", "protocol": "loso",
                   "config": config.to_dict()}  # fmt: skip
    one = evaluate.Trained(config, description, made.model, made.init(model, 0))
    return Model([Member("", 1.0, one)], {}, "")


def small(module, **fields):
    config = module.get_config()
    config.update_from_flattened_dict(fields)
    return config
