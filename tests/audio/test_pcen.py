"""Per-channel energy normalisation: the formula, padding, and whose statistics scale it."""

import dataclasses

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal

from emoflax.audio.channels import CONTOURS
from emoflax.audio.pcen import Pcen
from emoflax.batch import Batch
from emoflax.configs import default
from emoflax.data.features import logmel_statistics
from emoflax.errors import UserError
from emoflax.experiment.model import build_model

BANDS = 6
PCEN = Pcen(bands=BANDS, hop_ms=16.0, time_s=0.3, gain=0.9, bias=2.0, root=0.4)


def log_mels(lengths, channels=BANDS, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(-40, 15, (n, channels)).astype(np.float32) for n in lengths]


@pytest.mark.parametrize("frames", [50, 128, 300])  # one block and several
def test_it_equals_librosa_with_a_smoother_that_begins_at_the_first_frame(frames):
    (logmel,) = log_mels([frames], BANDS + 2)
    energy = 10 ** (logmel[:, :BANDS].T.astype(np.float64) / 10)
    newest = 1 - np.exp(-0.016 / 0.3)
    begin = scipy.signal.lfilter_zi([newest], [1, newest - 1]) * energy[:, :1]
    expected = librosa.pcen(energy, gain=0.9, bias=2.0, power=0.4, b=newest, eps=1e-10, zi=begin)
    actual = PCEN.alone(logmel)
    np.testing.assert_allclose(actual[:, :BANDS], expected.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(actual[:, BANDS:], logmel[:, BANDS:])  # contours


def test_a_louder_recording_gives_nearly_the_same_values():
    (logmel,) = log_mels([40])
    full = dataclasses.replace(PCEN, gain=1.0)
    np.testing.assert_allclose(full.alone(logmel + 12), full.alone(logmel), rtol=1e-4, atol=1e-4)


def small():
    config = default.get_config()
    config.model.audio, config.model.pooling = "attention_cnn", "mean"
    config.audio.contours, config.audio.mels = True, BANDS
    config.model.attention_cnn.update(width=8, dilations=(1, 2))
    config.model.pcen.time_s = 0.4
    return config


def test_a_padded_batch_gives_the_same_logits_as_each_clip_alone_and_contours_are_normalised_as_without_pcen():
    model = build_model(small(), 0, 3, seed=0)
    channels = BANDS + len(CONTOURS)
    clips = log_mels([5, 24, 13, 24], channels)
    mean, std = np.full(channels, -20, np.float32), np.full(channels, 9, np.float32)
    model.normalise_pcen.set(mean, std)
    forward = jax.jit(model)
    batch = Batch(logmel=np.zeros((4, 32, channels), np.float32), frames=jnp.array([5, 24, 13, 0]))
    for row, clip in zip(batch.logmel[:3], clips, strict=False):
        row[: len(clip)] = clip
        row[len(clip) :] = 99  # must not matter
    together = forward(batch)
    assert np.isfinite(together).all()
    for place, clip in enumerate(clips[:3]):
        alone = forward(Batch(logmel=clip[None], frames=jnp.array([len(clip)])))
        np.testing.assert_allclose(together[place], alone[0], rtol=1e-4, atol=1e-5)
    scaled = model._scaled(clips[1][None], jnp.array([24]))
    np.testing.assert_allclose(scaled[0, :, BANDS:], (clips[1][:, BANDS:] + 20) / 9, rtol=1e-4, atol=1e-4)


def test_its_scale_is_that_of_its_output_over_the_given_clips():
    clips = log_mels([30, 70, 11])

    class Features:
        def get(self, kind, position):
            return clips[position]

    mean, std = logmel_statistics(Features(), [0, 2], compress=PCEN.alone)
    out = np.concatenate([PCEN.alone(clips[0]), PCEN.alone(clips[2])])
    np.testing.assert_allclose([mean, std], [out.mean(0), out.std(0)], rtol=1e-4)


@pytest.mark.parametrize("fields", [{"model.pcen.root": 0.0}, {"audio.frontend": "whisper", "audio.contours": False}])
def test_settings_out_of_range_are_refused(fields):
    config = small()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=r"config\.model\.pcen"):
        build_model(config, 0, 3, seed=0)
