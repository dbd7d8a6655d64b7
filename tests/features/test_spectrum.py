"""Spectrograms, filters and trimming give librosa's numbers."""

import librosa
import numpy as np
import pytest

from emoflax.features import spectrum

SETTINGS = (16_000, 1024, 64, 50.0, 8_000.0), (16_000, 400, 80, 0.0, 8_000.0), (44_100, 2048, 128, 20.0, 16_000.0)


def wave(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    envelope = np.exp(-(((np.arange(samples) / max(1, samples) - 0.5) / 0.15) ** 2))
    return (0.3 * envelope * rng.standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 100, 1024, 16_000, 70_001])
@pytest.mark.parametrize(("n_fft", "hop", "window"), [(1024, 512, 1024), (512, 160, 400)])
def test_power_is_that_of_the_stft(samples, n_fft, hop, window):
    x = np.pad(wave(samples), (0, max(0, n_fft - samples)))
    expected = np.abs(librosa.stft(x, n_fft=n_fft, hop_length=hop, win_length=window)) ** 2
    np.testing.assert_allclose(spectrum.power(x, n_fft=n_fft, hop=hop, window=window), expected, rtol=1e-6, atol=1e-12)


def test_power_of_a_reflected_signal_is_that_of_the_stft():
    x = wave(16_000)
    expected = np.abs(librosa.stft(x, n_fft=400, hop_length=160, pad_mode="reflect")) ** 2
    got = spectrum.power(x, n_fft=400, hop=160, window=400, pad_mode="reflect")
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("rate_hz", "n_fft", "mels", "fmin_hz", "fmax_hz"), SETTINGS)
def test_filters_are_librosas(rate_hz, n_fft, mels, fmin_hz, fmax_hz):
    expected = librosa.filters.mel(sr=rate_hz, n_fft=n_fft, n_mels=mels, fmin=fmin_hz, fmax=fmax_hz)
    np.testing.assert_allclose(spectrum.mel_filters(rate_hz, n_fft, mels, fmin_hz, fmax_hz), expected, rtol=1e-6)


def test_decibels_are_librosas():
    cells = np.square(wave(10_000)).reshape(100, 100)
    expected = librosa.power_to_db(cells, ref=1.0, amin=1e-10, top_db=80.0)
    np.testing.assert_array_equal(spectrum.power_to_db(cells, least=1e-10, range_db=80.0), expected)


@pytest.mark.parametrize("trim_db", [10.0, 35.0, 60.0])
def test_trimming_keeps_the_samples_that_librosa_keeps(trim_db):
    for seed in range(20):
        samples = int(np.random.default_rng(seed).integers(1, 60_000))
        x = np.pad(wave(samples, seed), (seed * 700, seed * 300))
        np.testing.assert_array_equal(spectrum.trim(x, trim_db), librosa.effects.trim(x, top_db=trim_db)[0])
    silence = np.zeros(5_000, np.float32)
    assert len(spectrum.trim(silence, trim_db)) == len(librosa.effects.trim(silence, top_db=trim_db)[0])
