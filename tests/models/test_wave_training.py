"""Encoders of waveforms in the whole: rows of recordings, a train step, layer-wise freezing, prediction, the checks."""

import hugging_face
import jax
import numpy as np
import pytest
import torch
from flax import nnx

from emoflax import pretrained
from emoflax.audio.frontend import Samples
from emoflax.configs import wav2vec2_pretrained
from emoflax.data import dataset
from emoflax.errors import UserError
from emoflax.experiment import checks
from emoflax.experiment.model import build_model, frontend_of, resolve
from emoflax.experiment.train_config import train_config_of
from emoflax.training.step import train_step

SAMPLES = [3_000, 9_000, 5_100, 6_000]


def settled(folder, encoder: str = "wav2vec2"):
    config = wav2vec2_pretrained.get_config()
    config.model.audio, config.model.pretrained.audio = encoder, str(folder)
    config.train.batch_size = 4
    resolve(config)
    checks.check_together(config)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)  # of some weights the logits hardly depend on the sound
    hugging_face.wave(folder, "wav2vec2")
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return settled(folder)


@pytest.fixture(scope="module")
def model(config, folder):
    model = build_model(config, 0, classes=3, seed=0)
    pretrained.load(model.audio, "wav2vec2", str(folder))
    return model


@pytest.fixture(scope="module")
def batches(config):
    """The same clips as waveforms, of which the compiled step makes frames, and as the frames that prediction makes."""
    rng = np.random.default_rng(0)
    waves = [rng.integers(-20_000, 20_000, n).astype(np.int16) for n in SAMPLES]
    scales = np.full(len(waves), 1e-5, np.float32)
    options = {"max_frames": 300, "max_tokens": 1, "batch_size": 4, "buckets": 1}
    labels = np.arange(4, dtype=np.int32) % 3
    of_waves = dataset.from_arrays(waves, None, labels, frontend=frontend_of(config), scales=scales, **options)
    of_frames = dataset.from_arrays([Samples().alone(wave, 1e-5) for wave in waves], None, labels, **options)
    return [jax.tree.map(lambda rows: rows[:4], one.buckets[0].rows) for one in (of_waves, of_frames)]


def test_waveforms_in_the_step_and_frames_in_prediction_give_the_same_logits(model, batches):
    assert batches[0].wave is not None and batches[1].logmel is not None
    logits = [nnx.jit(lambda model, batch: model(batch))(model, batch) for batch in batches]
    assert np.ptp(logits[0], axis=0).max() > 1e-3
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_a_step_trains_the_layers_and_leaves_the_frozen_convolutions(config, model, batches):
    all_at_once = config.copy_and_resolve_references()
    all_at_once.optimizer.update(unfreeze_epochs=0.0, warmup_epochs=0.0)
    trained = train_config_of(all_at_once, model, steps_per_epoch=10)
    state = trained.init(model, seed=0)
    after, metrics = jax.jit(train_step, static_argnums=0)(trained.step, state, batches[0])
    assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    before, now = (dict(nnx.to_flat_state(each.params)) for each in (state, after))
    moved = {".".join(map(str, path)): np.abs(before[path][...] - now[path][...]).max() for path in before}
    farthest = [
        max(by for path, by in moved.items() if path.startswith(part))
        for part in (
            "audio.stem.convolutions.",
            "audio.stem.positions.",
            "audio.layers.0.",
            "audio.layers.1.",
            "fusion.",
        )
    ]
    assert farthest[0] == 0 and farthest == sorted(set(farthest))  # layer-wise decay above what is frozen


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.audio", "cnn", "'cnn' takes log-mels, not frontend='waveform'"),
        ("audio.frontend", "librosa", "'wav2vec2' needs config.audio.frontend='waveform'"),
        ("audio.mels", 64, "mels must be 320 with audio.frontend='waveform'"),
        ("audio.sample_rate_hz", 8_000, "sample_rate_hz must be 16000"),
        ("augment.noise", 0.5, "config.augment.noise changes log-mels.*use config.augment.wave"),
        ("evaluate.speeds", (0.9, 1.1), "config.evaluate.speeds changes log-mels"),
    ],
)
def test_what_does_not_go_with_waveforms_is_one_sentence(config, field, value, words):
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=words):
        checks.check_together(changed)


def test_an_encoder_of_waveforms_from_scratch_needs_no_weights():
    config = wav2vec2_pretrained.get_config()
    for encoder in ("wavlm", "data2vec_audio"):
        config.model.audio = encoder
        checks.check_together(config)
        assert nnx.eval_shape(lambda: build_model(config, 0, classes=3, seed=0)).audio.width == 128
