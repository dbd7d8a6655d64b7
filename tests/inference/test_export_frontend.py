"""The exported front end gives the waveforms and log-mels of features/, whatever the length, the level and the rate."""

import functools

import jax
import numpy as np
import pytest

from emoflax.audio.frontend import LogMel
from emoflax.features import level, log_mel, recording
from emoflax.inference.export_check import padded, voice
from emoflax.inference.export_frontend import WaveformFrontEnd, active_level_db

SPECTRUM = {"window_ms": 64.0, "hop_ms": 32.0, "mels": 24, "fmin_hz": 50.0, "fmax_hz": 3_900.0}


def voices(rate_hz, lengths_s=(0.35, 0.9, 1.7, 2.05)):
    random = np.random.default_rng(rate_hz)
    return [voice(random, round(s * rate_hz), rate_hz) + np.float32(0.01) for s in lengths_s]


@functools.cache
def made(rate_hz, trim_db, kind):
    frontend = LogMel(sample_rate_hz=rate_hz, **SPECTRUM)
    return jax.jit(WaveformFrontEnd(frontend, rate_hz, trim_db, kind, in_16_bits=False))


@pytest.mark.parametrize("rate_hz, trim_db, kind", [(16_000, 35.0, "normalised"), (11_025, 0.0, "absolute"),
                                                    (8_000, 20.0, "normalised")])  # fmt: skip
def test_its_log_mels_are_those_of_a_recording_alone(rate_hz, trim_db, kind):
    waves = voices(rate_hz)
    batch = made(rate_hz, trim_db, kind)(*padded(waves))
    for row, frames, wave in zip(np.asarray(batch.logmel), np.asarray(batch.frames), waves, strict=True):
        alone = recording.of_samples(wave, rate_hz, sample_rate_hz=rate_hz, trim_db=trim_db, level=kind).wave
        expected = log_mel.mel_db(alone, sample_rate_hz=rate_hz, **SPECTRUM)
        assert frames == len(expected)
        np.testing.assert_allclose(row[:frames], expected, atol=1e-3)
        assert not row[frames:].any()


def test_the_level_is_that_of_the_meter_from_a_whisper_to_a_click():
    click = np.zeros(16_000, np.float32)
    click[8_000:8_003] = 0.9
    waves = [*voices(16_000), click, voices(16_000)[2] * np.float32(1e-3)]
    waves = [wave - wave.mean() for wave in waves]
    array, samples = padded(waves)
    array = np.pad(array, ((0, 0), (0, -array.shape[1] % 512)))
    found = jax.jit(active_level_db, static_argnums=2)(array, samples, 16_000)
    np.testing.assert_allclose(found, [level.active_level_db(wave, 16_000) for wave in waves], atol=1e-3)
