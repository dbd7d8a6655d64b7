"""Recursive filters give the numbers of scipy.signal, which is not imported for them."""

import numpy as np
import pytest
import scipy.signal

from emoflax.features import recursive


@pytest.mark.parametrize("rate_hz", [1_000, 8_000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("samples", [1, 63, 64, 65, 30_001])
def test_the_high_pass_is_butterworths(rate_hz, samples):
    wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    expected = scipy.signal.sosfilt(scipy.signal.butter(4, 100, "highpass", fs=rate_hz, output="sos"), wave)
    np.testing.assert_allclose(recursive.run(recursive.high_pass(4, 100.0, rate_hz), wave), expected, atol=1e-5)


@pytest.mark.parametrize("keep", [0.5, np.exp(-1 / 30), 0.999])
def test_smoothing_is_the_usual_recursion(keep):
    wave = np.random.default_rng(0).standard_normal(3_000).astype(np.float32)
    expected = scipy.signal.lfilter([1 - keep], [1, -keep], wave)
    np.testing.assert_allclose(recursive.run(recursive.smoothing(keep), wave), expected, atol=1e-5)
