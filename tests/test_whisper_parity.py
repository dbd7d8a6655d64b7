"""Our Whisper is openai-whisper's: the log-mel, the encoder, every layer, from a real checkpoint file."""

import numpy as np
import pytest
import whisper

from emoflax.errors import UserError
from precompute import audio, whisper_mel

SETTINGS = {
    "frontend": "whisper", "sample_rate_hz": 16_000, "trim_db": 0.0, "window_ms": 25.0, "hop_ms": 10.0, "mels": 80,
    "fmin_hz": 0.0, "fmax_hz": 8_000.0,
}  # fmt: skip


def sound(rng, samples):
    """Noise that swells and fades, with a burst somewhere."""
    swell = np.sin(np.linspace(0, 3, samples)) ** 2
    burst = rng.integers(samples)
    wave = 0.05 * swell * rng.normal(size=samples)
    wave[burst : burst + 400] *= 10
    return wave.astype(np.float32)


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("samples", [37, 16_000, 48_053, 479_999])
def test_log_mel_is_whispers_on_the_clip_and_silence_beyond_it(mels, samples):
    wave = sound(np.random.default_rng(), samples)
    theirs = whisper.log_mel_spectrogram(whisper.pad_or_trim(wave), mels).numpy().T
    ours = whisper_mel.log_mel(wave, mels=mels)
    assert ours.shape == (samples // 160 + 3, mels) and ours.dtype == np.float32
    frames = min(len(ours), 3000)
    silence = np.full((3000 - frames, mels), ours.max() - whisper_mel.FLOOR)
    # A window of 30 s that is full to its end sees its own reflection there, where we see the silence that follows.
    compared = 3000 if samples < 479_000 else 2998
    assert relative_error(np.concatenate([ours[:frames], silence])[:compared], theirs[:compared]) < 1e-4


@pytest.mark.parametrize(("field", "value"), [("mels", 64), ("window_ms", 64.0), ("fmin_hz", 50.0)])
def test_the_front_end_refuses_settings_that_whisper_was_not_trained_on(field, value):
    audio.check_settings(**SETTINGS)
    with pytest.raises(UserError, match=f"--config.audio.{field} must be .* with audio.frontend='whisper'"):
        audio.check_settings(**SETTINGS | {field: value})
