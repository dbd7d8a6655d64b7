"""The active speech level is that of the speech, whatever its gain, its pauses and the hum under it."""

import numpy as np
import pytest

from emoflax.features.level import SPEECH_DB, active_level_db
from emoflax.features.recording import of_samples

RATE_HZ = 16_000


def to_speech_level(wave, sample_rate_hz):
    return of_samples(wave, sample_rate_hz, sample_rate_hz=sample_rate_hz, trim_db=0.0, level="normalised").wave


def tone(seconds, peak=0.5):
    return (peak * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def silence(seconds):
    return np.zeros(round(seconds * RATE_HZ), np.float32)


def test_the_level_of_a_tone_is_its_power():
    assert active_level_db(tone(3), RATE_HZ) == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.1)


def test_pauses_do_not_count_but_for_the_hangover():
    sparse = np.concatenate([silence(4), tone(3), silence(8)])
    after_db = 10 * np.log10((3 + 0.2) / 3)
    assert active_level_db(sparse, RATE_HZ) == pytest.approx(active_level_db(tone(3), RATE_HZ) - after_db, abs=0.15)


@pytest.mark.parametrize("gain_db", [-60.0, -40.0, -13.7, 6.0])
def test_a_gain_changes_the_level_by_itself_alone(gain_db):
    rng = np.random.default_rng(0)
    wave = (rng.normal(size=48_000) * np.repeat(rng.uniform(0, 1, 48), 1000) ** 3).astype(np.float32)
    louder = wave * np.float32(10 ** (gain_db / 20))
    assert active_level_db(louder, RATE_HZ) - active_level_db(wave, RATE_HZ) == pytest.approx(gain_db, abs=1e-4)
    np.testing.assert_allclose(to_speech_level(louder, RATE_HZ), to_speech_level(wave, RATE_HZ), atol=1e-5)


def test_what_is_brought_to_the_level_has_it():
    assert active_level_db(to_speech_level(tone(2, 0.001), RATE_HZ), RATE_HZ) == pytest.approx(SPEECH_DB, abs=1e-3)


def test_hum_under_speech_does_not_count():
    hum = (0.1 * np.sin(2 * np.pi * 50 * np.arange(3 * RATE_HZ) / RATE_HZ)).astype(np.float32)
    with_hum = active_level_db(tone(3, 0.1) + hum, RATE_HZ)
    assert with_hum == pytest.approx(active_level_db(tone(3, 0.1), RATE_HZ), abs=0.3)


@pytest.mark.parametrize("samples", [1, 10, 160, 3000])
@pytest.mark.parametrize("sample_rate_hz", [1_000, 16_000, 44_100])
def test_any_wave_has_a_level_also_a_click_and_silence(samples, sample_rate_hz):
    click = np.zeros(samples, np.float32)
    assert np.isfinite(to_speech_level(click, sample_rate_hz)).all()
    click[samples // 2] = 1
    assert np.isfinite(to_speech_level(click, sample_rate_hz)).all()
