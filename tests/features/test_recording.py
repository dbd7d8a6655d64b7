"""Gain, an offset and a dead channel change no feature, whatever is computed from a recording."""

import numpy as np
import pytest
import soundfile

from emoflax.configs import aligned, attention_cnn, default, functionals, tiny
from emoflax.errors import UserError
from emoflax.features import decode, recording
from emoflax.inference import recordings

RATE_HZ = 48_000
FIELDS = {"sample_rate_hz": 16_000, "trim_db": 35.0, "level": "normalised"}


def speech(seconds=1.2, seed=0):
    """Harmonics that come and go, with pauses at both ends, in a little noise: float32, peak about 0.1."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * 190 * k * t + k) / k for k in range(1, 16))
    noise = np.random.default_rng(seed).normal(size=len(t))
    voiced = np.clip(np.sin(5 * t), 0, None) * (t > 0.2) * (t < seconds - 0.2)
    return (0.05 * tones * voiced + 1e-4 * noise).astype(np.float32)


def save(path, samples, subtype="FLOAT"):
    soundfile.write(path, samples, RATE_HZ, subtype=subtype)
    return path


def sound_of(config, path):
    return recordings.sound_of(config, recordings.read(path))


def changed(samples):
    """The same recording as other equipment would have made it."""
    for gain_db in (-40, -20, 6):
        yield f"gain of {gain_db} dB", samples * np.float32(10 ** (gain_db / 20))
    for offset_db in (-60, -40):
        yield f"offset of {offset_db} dB", samples + np.float32(10 ** (offset_db / 20))
    yield "second channel dead", np.stack([samples, np.zeros_like(samples)], axis=1)


def kinds():
    """Every kind of feature that a model of sound takes."""
    yield "log-mels", default.get_config(), {"model.audio": "cnn"}
    yield "contours", attention_cnn.get_config(), {}
    mels = {"model.audio": "whisper", "audio.window_ms": 25.0, "audio.hop_ms": 10.0}
    yield "whisper", default.get_config(), mels | {"audio.frontend": "whisper", "audio.mels": 80, "audio.fmin_hz": 0.0}
    yield "kaldi", default.get_config(), mels | {"audio.frontend": "kaldi", "audio.mels": 128, "model.audio": "ast"}
    yield "waves", tiny.get_config(), {"data.store": "wave"}
    yield "functionals", functionals.get_config(), {}
    yield "kernels", functionals.get_config(), {"functionals.statistics": False, "functionals.kernels": 50}
    yield "aligned", aligned.get_config(), {}


@pytest.mark.parametrize(("config", "fields"), [pytest.param(*rest, id=name) for name, *rest in kinds()])
def test_gain_offset_and_a_dead_channel_change_no_feature(config, fields, tmp_path):
    config.update_from_flattened_dict(fields)
    as_is = sound_of(config, save(tmp_path / "as_is.wav", speech()))
    for name, samples in changed(speech()):
        other = sound_of(config, save(tmp_path / "other.wav", samples))
        for before, after in zip(as_is, other, strict=True):
            spread = np.abs(before).mean() + 1e-3
            worst = np.quantile(np.abs(after - before), 0.99) / spread
            assert worst < 2e-3, name


def test_the_level_of_16_bit_recordings_does_not_matter_until_their_steps_are_heard(tmp_path):
    config = attention_cnn.get_config()
    as_is = sound_of(config, save(tmp_path / "as_is.wav", speech(), "PCM_16"))
    for gain_db in (-10, -20):
        quiet = speech() * np.float32(10 ** (gain_db / 20))
        other = sound_of(config, save(tmp_path / "quiet.wav", quiet, "PCM_16"))
        loud = as_is[:, :64] > as_is[:, :64].max() - 40
        assert np.abs(other[:, :64] - as_is[:, :64])[loud].mean() < 0.5


def test_an_absolute_level_is_that_of_the_recording(tmp_path):
    config = default.get_config()
    config.model.audio, config.audio.level = "cnn", "absolute"
    loud, soft = (sound_of(config, save(tmp_path / f"{gain}.wav", speech() * np.float32(gain))) for gain in (1.0, 0.5))
    np.testing.assert_allclose(loud - soft, 6.02, atol=0.02)


def test_the_mean_is_removed_at_either_level(tmp_path):
    for level in recording.LEVELS:
        offset = recording.read(str(save(tmp_path / "a.wav", speech() + np.float32(0.02))), **FIELDS | {"level": level})
        assert abs(offset.wave.mean()) < 1e-3 * np.abs(offset.wave).max()


def test_silent_ends_are_cut_at_the_same_place_at_any_gain():
    loud, soft = (recording.of_samples(speech() * np.float32(gain), RATE_HZ, **FIELDS) for gain in (1.0, 0.01))
    assert len(loud.wave) == len(soft.wave) < 0.9 * 16_000 * loud.duration_s


def test_channels_that_carry_sound_count_alike_and_the_others_not(tmp_path):
    left, right, dead = speech(seed=1), speech(seed=2), np.zeros_like(speech())
    hiss = (1e-5 * np.random.default_rng(3).normal(size=len(dead))).astype(np.float32)
    samples, _ = decode.decode(str(save(tmp_path / "a.wav", np.stack([left, dead, right, hiss], axis=1))))
    np.testing.assert_allclose(samples, (left + right + hiss) / 2, atol=1e-7)


def test_recordings_finer_than_16_bits_may_be_quieter(tmp_path):
    quiet = speech() * np.float32(1e-4)
    assert len(recording.read(str(save(tmp_path / "fine.wav", quiet, "PCM_24")), **FIELDS).wave)
    with pytest.raises(UserError, match="is silent"):
        recording.read(str(save(tmp_path / "coarse.wav", quiet, "PCM_16")), **FIELDS)


def test_a_recording_in_memory_gives_what_its_file_gives(tmp_path):
    config = default.get_config()
    config.model.audio = "cnn"
    path = save(tmp_path / "a.wav", speech())
    in_memory = recordings.sound_of(config, recordings.of_array(speech(), RATE_HZ, "a"))
    np.testing.assert_array_equal(sound_of(config, path), in_memory)
