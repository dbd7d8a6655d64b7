"""WAV files of 16-bit samples are read as libsndfile reads them, and nothing out of the ordinary is."""

import struct

import numpy as np
import pytest
import soundfile

from emoflax.features import plain_wav, untrusted
from emoflax.features.decode import decode


def write(path, channels=1, subtype="PCM_16", format="WAV", frames=2500):
    steps = np.random.default_rng(channels).integers(-32768, 32768, size=(frames, channels), dtype=np.int16)
    soundfile.write(path, steps, 16_000, subtype=subtype, format=format)
    return path


def opened(path):
    return plain_wav.open_plain(str(path), path.stat().st_size, path.read_bytes())


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_frames_are_those_of_libsndfile_to_the_last_bit(tmp_path, channels):
    path = write(tmp_path / "a.wav", channels)
    if channels > 2:  # libsndfile describes these in another header
        path.write_bytes(plain(path.read_bytes(), channels))
    ours, theirs = opened(path), soundfile.SoundFile(path)
    assert (ours.frames, ours.channels, ours.samplerate) == (2500, channels, 16_000)
    for seek, count in ((0, 100), (0, 5000), (1300, 700), (2500, 10)):
        ours.seek(seek), theirs.seek(seek)
        expected = theirs.read(count, dtype="float32", always_2d=True)
        np.testing.assert_array_equal(ours.read(count), expected)
        np.testing.assert_array_equal(ours.read(count), theirs.read(count, dtype="float32", always_2d=True))


def plain(content, channels, extra=b""):
    """The samples of a WAV file under the shortest header, and `extra` chunks before them."""
    samples = content[content.index(b"data") + 8 :]
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, 16_000, 32_000 * channels, 2 * channels, 16)
    body = b"WAVE" + form + extra + struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def test_chunks_of_any_length_may_come_before_the_samples(tmp_path):
    path = write(tmp_path / "a.wav")
    plainly = decode(str(path))[0]
    path.write_bytes(plain(path.read_bytes(), 1, struct.pack("<4sI", b"LIST", 5) + b"INFOx\0"))
    assert opened(path) is not None
    np.testing.assert_array_equal(decode(str(path))[0], plainly)


@pytest.mark.parametrize(
    "written",
    [{"subtype": "PCM_24"}, {"subtype": "FLOAT"}, {"subtype": "ULAW"}, {"format": "WAVEX"}, {"format": "RF64"},
     {"format": "FLAC"}, {"format": "W64"}],
)  # fmt: skip
def test_every_other_format_is_left_to_libsndfile(tmp_path, written):
    assert opened(write(tmp_path / "a.wav", **written)) is None


@pytest.mark.parametrize("kept", [20, 40, 43, 1000, 5042])
def test_a_file_that_ends_before_its_samples_do_is_none_of_these(tmp_path, kept):
    path = write(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:kept])
    assert opened(path) is None


def test_no_process_is_started_for_it_and_one_for_anything_else(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(untrusted._kept, "ask", lambda request: asked.append(request["path"]) or (np.zeros(1), 1))
    paths = [str(write(tmp_path / "a.wav")), str(write(tmp_path / "a.flac", format="FLAC"))]
    for path in paths:
        untrusted.decode(path)
    assert asked == paths[1:]
