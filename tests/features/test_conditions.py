"""Level, bandwidth, length and noise of a recording are measured as they are."""

import numpy as np
import pytest
import soxr

from emoflax.features.conditions import measure

RATE_HZ = 16_000


def speech(noise=1e-4, seed=0):
    """Bursts of noise-like sound up to 8 kHz, with pauses, over white noise of that deviation."""
    random, t = np.random.default_rng(seed), np.arange(2 * RATE_HZ) / RATE_HZ
    return (0.1 * random.normal(size=len(t)) * (np.sin(9 * t) > 0) + noise * random.normal(size=len(t))).astype("f4")


def test_the_bandwidth_is_that_of_the_narrowest_stage():
    narrow = soxr.resample(soxr.resample(speech(), RATE_HZ, 8_000), 8_000, RATE_HZ)
    assert measure(speech(), RATE_HZ, 2.0)["bandwidth_hz"] > 7_800
    assert measure(narrow, RATE_HZ, 2.0)["bandwidth_hz"] == pytest.approx(4_000, abs=200)


@pytest.mark.parametrize("noise", [1e-2, 1e-3])
def test_the_noise_is_that_of_the_pauses(noise):
    expected = 20 * np.log10(0.1 / noise)  # less what the level loses by holding over pauses of 0.2 s
    assert measure(speech(noise), RATE_HZ, 2.0)["snr_db"] == pytest.approx(
        expected, abs=4
    )  # the level holds over pauses of 0.2 s


def test_a_gain_changes_the_level_alone():
    loud, soft = (measure(speech() * np.float32(gain), RATE_HZ, 2.0) for gain in (1.0, 0.1))
    assert loud.pop("level_db") - soft.pop("level_db") == pytest.approx(20, abs=0.01)
    assert loud == pytest.approx(soft, abs=0.01)


@pytest.mark.parametrize("samples", [1, 100, 320])
def test_any_wave_can_be_measured_also_silence(samples):
    assert np.isfinite(list(measure(np.zeros(samples, np.float32), RATE_HZ, 0.1).values())).all()
