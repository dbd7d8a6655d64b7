"""Bands that a recording does not have get the training mean, in training and prediction, and count in no statistic."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emoflax.audio.absent_bands import AbsentBands
from emoflax.audio.augment import Augmentation
from emoflax.audio.frontend import band_edges_hz
from emoflax.batch import Batch
from emoflax.configs import tiny
from emoflax.data.features import logmel_statistics
from emoflax.experiment import checks
from emoflax.experiment.model import build_model
from emoflax.features.log_mel import of_wave
from emoflax.features.recording import of_samples

BANDS, RATE_HZ = 64, 16_000
HZ = band_edges_hz(BANDS, 50.0, 8_000.0)
ABSENT = AbsentBands(BANDS, 65.0)
MEAN = np.linspace(-30, -50, BANDS).astype(np.float32)


def log_mel(rate_hz, seed=0):
    """Of 0.8 s of a voice with breath, as a recorder of that rate makes it."""
    random, t = np.random.default_rng(seed), np.arange(round(0.8 * rate_hz)) / rate_hz
    tones = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, int(rate_hz / 300)))
    samples = (0.1 * tones + 0.003 * random.normal(size=len(t))).astype(np.float32)
    wave = of_samples(samples, rate_hz, sample_rate_hz=RATE_HZ, trim_db=0.0, level="normalised").wave
    shape = {"window_ms": 64.0, "hop_ms": 32.0, "mels": BANDS, "fmin_hz": 50.0, "fmax_hz": 8_000.0}
    return of_wave(wave, frontend="librosa", sample_rate_hz=RATE_HZ, contours=False, **shape)


WIDE, NARROW = log_mel(48_000), log_mel(8_000)


class Known:
    """Features of which statistics take log-mels alone."""

    def __init__(self, *logmels):
        self.logmels = logmels

    def get(self, kind, position):
        return self.logmels[position]


def test_bands_above_a_recordings_rate_get_the_training_mean_and_no_others():
    rows = np.zeros((3, 40, BANDS + 2), np.float32)
    frames = np.array([len(WIDE), len(NARROW), 0], np.int32)
    for row, clip in zip(rows, (WIDE, NARROW), strict=False):
        row[: len(clip), :BANDS], row[: len(clip), BANDS:] = clip, -300.0  # contours, which are no bands
    mean = np.concatenate([MEAN, [1, 1]]).astype(np.float32)
    made = np.asarray(ABSENT(jnp.asarray(rows), jnp.asarray(frames), jnp.asarray(mean)))
    np.testing.assert_array_equal(made[[0, 2]], rows[[0, 2]])
    changed = (made[1] != rows[1]).any(0)
    assert not changed[:BANDS][HZ[2:] < 3_900].any() and changed[:BANDS][HZ[:-2] > 4_100].all()
    np.testing.assert_array_equal(made[1, : frames[1]][:, changed], np.tile(mean[changed], (frames[1], 1)))
    assert not made[1, frames[1] :].any() and not changed[BANDS:].any()
    np.testing.assert_array_equal(ABSENT.of_clip(rows[1, : frames[1]]), changed)
    assert not ABSENT.of_clip(WIDE).any()


def test_statistics_are_those_of_the_recordings_that_have_the_band():
    mean, std = logmel_statistics(Known(WIDE, NARROW), [0, 1], absent=ABSENT.of_clip)
    of_wide, top = logmel_statistics(Known(WIDE), [0]), HZ[:-2] > 4_100
    np.testing.assert_allclose(mean[top], of_wide[0][top], rtol=1e-6)
    np.testing.assert_allclose(std[top], of_wide[1][top], rtol=1e-5)
    mean, std = logmel_statistics(Known(NARROW), [0], absent=ABSENT.of_clip)
    assert (np.abs((WIDE - mean) / std)[:, top] < 1e-6).all()  # what no training clip has never counts


def test_a_training_clip_whose_bands_are_cut_off_holds_the_mean_there_also_under_masks():
    band_hz = tuple(HZ[1:-1].tolist())
    limited = Augmentation(band_limit=1.0, band_limit_hz=(4_000.0, 4_000.0), time_masks=2, bands=BANDS, band_hz=band_hz)
    limited = dataclasses.replace(limited, absent=ABSENT)
    batch = Batch(logmel=jnp.asarray(WIDE[None]), frames=jnp.array([len(WIDE)]))
    made = np.asarray(limited(jax.random.key(0), batch, jnp.asarray(MEAN)).logmel)[0]
    top = HZ[1:-1] > 4_000
    np.testing.assert_array_equal(made[:, top], np.tile(MEAN[top], (len(WIDE), 1)))
    assert (made != MEAN[None])[:, ~top].any()


@pytest.mark.parametrize("absent_db", [65.0, 0.0])
def test_a_model_predicts_a_narrow_recording_as_if_its_missing_bands_were_average(absent_db):
    config = tiny.get_config()
    config.audio.mels, config.model.absent_db = BANDS, absent_db
    model = build_model(config, 0, 4, seed=0)
    model.normalise.set(MEAN, np.full(BANDS, 10.0))
    filled = np.where(ABSENT.of_clip(NARROW)[None], MEAN[None], NARROW)
    frames = jnp.array([len(NARROW)])
    narrow, average = (model(Batch(logmel=jnp.asarray(x[None]), frames=frames)) for x in (NARROW, filled))
    assert np.allclose(narrow, average, atol=1e-6) == bool(absent_db)


def test_a_checkpoint_from_before_keeps_its_floor():
    description = {"model": {"audio": "cnn"}}
    assert checks.config_of(description).model.absent_db == 0
