"""Any recording that sounds the same gives the same log-mel; any that cannot be used is refused by name."""

import glob
import os
import struct
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from emoflax.errors import UserError
from emoflax.features import decode, log_mel

SETTINGS = {
    "frontend": "librosa", "sample_rate_hz": 16_000, "trim_db": 35.0, "level": "absolute", "window_ms": 64.0,
    "hop_ms": 16.0, "mels": 64, "fmin_hz": 50.0, "fmax_hz": 8_000.0, "contours": False,
}  # fmt: skip
MEL = {name: value for name, value in SETTINGS.items() if name not in ("frontend", "trim_db", "level", "contours")}
RAVDESS = Path(__file__).parents[3] / "shared" / "ravdess"


def voice(seconds=1.0, rate_hz=48_000, seed=0):
    """Harmonics under 3 kHz in a little noise, float32 [samples], peak about 0.5."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    tones = sum(np.sin(2 * np.pi * 190 * k * t + k) / k for k in range(1, 16))
    noise = np.random.default_rng(seed).normal(size=len(t))
    return (0.25 * tones * (0.6 + 0.4 * np.sin(7 * t)) + 1e-3 * noise).astype(np.float32)


def save(path, samples, rate_hz=48_000, **kind):
    soundfile.write(path, samples, rate_hz, **kind)
    return str(path)


@pytest.mark.parametrize(
    ("name", "subtype", "rate_hz", "channels", "tolerance_db"),
    [
        ("a.wav", "PCM_U8", 48_000, 1, 12.0),
        ("a.wav", "PCM_16", 22_050, 1, 2.0),
        ("a.wav", "PCM_16", 16_000, 2, 2.0),
        ("a.wav", "PCM_24", 96_000, 1, 2.0),
        ("a.wav", "PCM_32", 44_100, 8, 2.0),
        ("a.wav", "FLOAT", 96_000, 6, 2.0),
        ("a.wav", "DOUBLE", 192_000, 1, 2.0),
        ("a.flac", "PCM_24", 44_100, 2, 2.0),
        ("a.mp3", None, 44_100, 2, 12.0),
        ("a.ogg", "VORBIS", 48_000, 1, 12.0),
    ],
)
def test_format_rate_and_channels_do_not_change_the_spectrogram(
    tmp_path, name, subtype, rate_hz, channels, tolerance_db
):
    expected, _ = log_mel.log_mel(save(tmp_path / "plain.wav", voice()), **SETTINGS)
    samples = np.repeat(voice(rate_hz=rate_hz)[:, None], channels, axis=1)
    if channels > 1:  # what stands on one channel alone is found in the mean
        samples[:, 0] *= 1.3
        samples[:, 1] *= 0.7
    frames, recording = log_mel.log_mel(save(tmp_path / name, samples, rate_hz, subtype=subtype), **SETTINGS)
    assert frames.dtype == np.float32 and frames.flags.c_contiguous and np.isfinite(frames).all()
    assert abs(recording.duration_s - 1) < 0.03 and abs(len(frames) - len(expected)) <= 2
    loud = expected[5:50] > expected.max() - 30
    assert np.abs(frames[5:50] - expected[5:50])[loud].mean() < tolerance_db / 2
    assert np.abs(frames[5:50] - expected[5:50])[loud].max() < tolerance_db


@pytest.mark.parametrize("window_ms", [64.0, 25.0])
def test_log_mel_equals_librosas(window_ms):
    wave = voice(1.3, 16_000)
    window = round(16 * window_ms)
    power = librosa.feature.melspectrogram(
        y=wave, sr=16_000, n_fft=1024 if window == 1024 else 512, win_length=window, hop_length=256, n_mels=64,
        fmin=50, fmax=8000,
    )  # fmt: skip
    frames = log_mel.mel_db(wave, **{**MEL, "window_ms": window_ms})
    assert frames.shape == (1 + len(wave) // 256, 64)
    np.testing.assert_allclose(10 ** (frames.T / 10), np.maximum(power, power.max() * 1e-8), rtol=1e-5)


def test_a_recording_is_known_again_in_another_format_and_place(tmp_path):
    (tmp_path / "b").mkdir()
    steps = np.round(voice() * 20_000).astype(np.int16)  # the library scales floats differently for the two formats
    wav = log_mel.log_mel(save(tmp_path / "a.wav", steps), **SETTINGS)
    flac = log_mel.log_mel(save(tmp_path / "b" / "c.flac", steps), **SETTINGS)
    other = log_mel.log_mel(save(tmp_path / "d.wav", voice(seed=1), subtype="PCM_16"), **SETTINGS)
    np.testing.assert_array_equal(wav[0], flac[0])
    assert wav[1].digest == flac[1].digest != other[1].digest


@pytest.mark.parametrize("seconds", [0.05, 600.0])
def test_very_short_and_very_long_recordings_work(tmp_path, seconds):
    samples = np.tile(voice(min(seconds, 1.0)), max(1, int(seconds)))
    frames, recording = log_mel.log_mel(save(tmp_path / "a.wav", samples), **SETTINGS)
    assert recording.duration_s == pytest.approx(seconds)
    assert len(frames) == 1 + max(1024, round(seconds * 16_000)) // 256
    assert np.isfinite(frames).all() and frames.std() > 1


def test_silence_at_both_ends_is_cut_off_unless_trimming_is_off(tmp_path):
    quiet = np.zeros(48_000, np.float32)
    path = save(tmp_path / "a.wav", np.concatenate([quiet, voice(), quiet]))
    trimmed, recording = log_mel.log_mel(path, **SETTINGS)
    whole, _ = log_mel.log_mel(path, **{**SETTINGS, "trim_db": 0.0})
    assert recording.duration_s == pytest.approx(3.0)
    assert len(whole) == 1 + 3 * 16_000 // 256
    assert 62 <= len(trimmed) <= 62 + 2 * 8  # librosa looks at frames of 128 ms


def test_a_part_of_a_file_equals_that_part_in_a_file_of_its_own(tmp_path):
    samples = voice(3.0)
    path = save(tmp_path / "a.wav", samples, subtype="FLOAT")
    part = log_mel.log_mel(path, 1.0, 2.5, **SETTINGS)
    alone = log_mel.log_mel(save(tmp_path / "b.wav", samples[48_000:120_000], subtype="FLOAT"), **SETTINGS)
    np.testing.assert_array_equal(part[0], alone[0])
    assert (part[1].digest, part[1].duration_s) == (alone[1].digest, alone[1].duration_s)
    for end_s in (None, 3.04):
        assert log_mel.log_mel(path, 1.0, end_s, **SETTINGS)[1].duration_s == 2.0


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(-1.0, 1.0), (3.0, None), (5.0, 6.0), (0.0, 3.2), (2.0, 1.0), (1.0, 1.0)]
)
def test_a_part_that_the_file_does_not_have_is_refused(tmp_path, start_s, end_s):
    path = save(tmp_path / "a.wav", voice(3.0))
    with pytest.raises(UserError, match=r"a\.wav lasts 3\.000 s.*Correct start_s and end_s"):
        decode.decode(path, start_s, end_s)


def cut(source, target, share):
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: round(len(content) * share)])


def with_one(value):
    samples = voice()
    samples[777] = value
    return samples


BAD = {
    "empty.wav": (lambda path: path.touch(), "is empty"),
    "no_samples.wav": (lambda path: save(path, np.zeros(0, np.float32)), "no samples"),
    "text.wav": (lambda path: path.write_text("file,emotion,speaker\n" * 40), "is not sound"),
    "missing.wav": (lambda path: None, "There is no file"),
    "folder.wav": (lambda path: path.mkdir(), "is a folder, not a file"),
    "cut.wav": (lambda path: cut(save(path, voice()), path, 0.6), "is truncated"),
    "cut_in_header.wav": (lambda path: cut(save(path, voice()), path, 0.0004), "is truncated"),
    "cut_by_a_sample.wav": (lambda path: os.truncate(save(path, voice()), 44 + 2 * 47_999), "is truncated"),
    "cut.flac": (lambda path: cut(save(path, voice(), subtype="PCM_16"), path, 0.6), "damaged or truncated"),
    "cut.mp3": (lambda path: cut(save(path, voice(5.0)), path, 0.6), "is truncated"),
    "cut.ogg": (lambda path: cut(save(path, voice(5.0)), path, 0.6), "is truncated"),
    "silent.wav": (lambda path: save(path, np.zeros(48_000, np.float32)), "is silent"),
    "offset.wav": (lambda path: save(path, np.full(48_000, 0.25, np.float32)), "is silent"),
    "opposed.wav": (lambda path: save(path, voice()[:, None] * np.array([[1, -1]])), "is silent"),
    "nan.wav": (lambda path: save(path, with_one(np.nan), subtype="FLOAT"), "not numbers"),
    "infinite.wav": (lambda path: save(path, with_one(-np.inf), subtype="FLOAT"), "not numbers"),
    "huge.wav": (lambda path: save(path, with_one(1e20), subtype="FLOAT"), "full scale is 1.0"),
    "one_sample.wav": (lambda path: save(path, np.full(1, 0.5, np.float32)), "less than 10 ms"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_recording_that_cannot_be_used_is_named_with_problem_and_remedy(tmp_path, name):
    make, problem = BAD[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=problem) as error:
        log_mel.log_mel(str(tmp_path / name), **SETTINGS)
    assert str(tmp_path / name) in str(error.value)
    assert any(remedy in str(error.value) for remedy in ("Replace the file", "Correct the corpus", "Copy or download"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_recording_that_may_not_be_read_is_named(tmp_path):
    path = save(tmp_path / "a.wav", voice())
    os.chmod(path, 0)
    with pytest.raises(UserError, match=r"Cannot read .*a\.wav: Permission denied"):
        decode.decode(path)


def test_a_wav_streamed_without_its_length_works(tmp_path):
    path = Path(save(tmp_path / "a.wav", voice()))
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[at + 4 : at + 8] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert len(decode.decode(str(path))[0]) == 48_000


@pytest.mark.parametrize(
    ("field", "value"),
    [("fmax_hz", 9_000.0), ("fmin_hz", 8_000.0), ("hop_ms", 0.0), ("hop_ms", 65.0), ("mels", 0), ("trim_db", -1.0),
     ("window_ms", 0.0), ("sample_rate_hz", 16), ("frontend", "cochlea")],
)  # fmt: skip
def test_settings_that_no_spectrogram_can_have_are_named(field, value):
    log_mel.check_settings(**SETTINGS)
    with pytest.raises(UserError, match=f"--config.audio.{field} must be"):
        log_mel.check_settings(**{**SETTINGS, field: value})


@pytest.mark.skipif(not RAVDESS.exists(), reason="needs ../shared/ravdess")
def test_stereo_clips_of_ravdess_and_their_mono_neighbours_give_speech():
    stereo = ["03-01-02-01-01-02-01", "03-01-02-01-02-02-05", "03-01-06-01-01-02-20"]
    paths = [glob.glob(str(RAVDESS / "Actor_*" / f"{name}.flac"))[0] for name in stereo]
    for path in [*paths, *sorted(glob.glob(str(RAVDESS / "Actor_07" / "*.flac")))[:5]]:
        frames, recording = log_mel.log_mel(path, **SETTINGS)
        duration_s = recording.duration_s
        assert 2.9 < duration_s < 5.3
        assert 0.2 * duration_s < len(frames) * 0.016 < duration_s - 0.5  # about a second of silence is gone
        assert np.isfinite(frames).all() and frames.std() > 5
