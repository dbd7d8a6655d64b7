"""The same recording at another level, with an offset, or beside a dead channel gets the same probabilities."""

import numpy as np
import pytest
import soundfile

from emoflax.configs import attention_cnn, functionals, tiny
from emoflax.data.clip import Clip, Corpus
from emoflax.experiment import closed_form, evaluate
from emoflax.experiment.features import features_of
from emoflax.experiment.model import build_model, initial_model
from emoflax.experiment.train_config import train_config_of
from emoflax.inference import recordings
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
    description = {"labels": LABELS, "vocabulary": [], "corpus": "toy", "notice": "", "protocol": "loso"}
    one = evaluate.Trained(config, description, made.model, made.init(model, 0))
    return Model([Member("", 1.0, one)], {}, "")


def small(module, **fields):
    config = module.get_config()
    config.update_from_flattened_dict(fields)
    return config


CONFIGS = {
    "log-mels": small(tiny),
    "waves": small(tiny, **{"data.store": "wave"}),
    "contours": small(attention_cnn, **{"model.attention_cnn.width": 16}),
    "closed-form": small(functionals, **{"functionals.kernels": 20}),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_gain_offset_and_a_dead_channel_leave_the_probabilities_as_they_are(kind, tmp_path):
    model = trained(CONFIGS[kind], tmp_path)
    one = speech(7)
    changed = {f"gain_{db}_db": one * np.float32(10 ** (db / 20)) for db in (-40, -30, -20, -10, 0, 6)}
    changed |= {"offset": one + np.float32(0.01), "dead": np.stack([one, 0 * one], axis=1)}
    paths = [write(tmp_path / f"{name}.wav", samples) for name, samples in changed.items()]
    log_p, failures = model.log_probabilities([recordings.read(path) for path in paths])
    p = np.exp(log_p)
    assert not failures and len(set(p.argmax(1))) == 1
    np.testing.assert_allclose(p, np.broadcast_to(p[4], p.shape), atol=0.01)


def test_a_model_of_the_absolute_level_still_depends_on_it(tmp_path):
    model = trained(small(tiny, **{"audio.level": "absolute"}), tmp_path)
    paths = [write(tmp_path / f"{gain}.wav", speech(7) * np.float32(gain)) for gain in (1.0, 0.01)]
    loud, soft = np.exp(model.log_probabilities([recordings.read(path) for path in paths])[0])
    assert np.abs(loud - soft).max() > 0.01
