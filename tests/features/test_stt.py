"""Whisper on real recordings: batches, the cache, kills, and weights that are not available."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_whisper
from absl import logging

from emoflax import fingerprint
from emoflax.configs.default import get_config
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError, WeightsUnavailable
from emoflax.features import decode, stt, stt_openai, text

ROOT = Path(__file__).parents[2]
RATE_HZ = 22_050


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    weights = tiny_whisper.write(tmp_path_factory.mktemp("weights") / "tiny.pt")
    return get_config().text.to_dict() | {"source": "whisper", "whisper_model": str(weights), "whisper_batch": 4}


@pytest.fixture(scope="module")
def engine(fields):
    return stt.load(fields)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No route to any host, and no weights in Whisper's folder; returns that folder."""
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "whisper"


@pytest.fixture
def batches(monkeypatch):
    """The sizes of all batches that went through Whisper."""
    sizes, engine = [], stt_openai.WhisperEngine
    real = engine.texts
    monkeypatch.setattr(engine, "texts", lambda self, waves: sizes.append(len(waves)) or real(self, waves))
    return sizes


def wave(seed, seconds=1.0, rate_hz=16_000):
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).normal(size=time_s.size)
    return (0.2 * np.sin(2 * np.pi * (100 + 150 * seed) * time_s) + 0.02 * noise).astype(np.float32)


def recordings(folder, count, seconds=1.0, first=0):
    folder.mkdir(exist_ok=True)
    clips = []
    for seed in range(first, first + count):
        path = folder / f"{seed:02d}.wav"
        soundfile.write(path, wave(seed, seconds, RATE_HZ), RATE_HZ)
        clips.append(Clip(f"clip{seed}", "joy", "s", str(path), f"reference {seed}"))
    return clips


def cache_file(folder):
    (path,) = (folder / "transcripts").glob("*.jsonl")
    return path


@pytest.mark.parametrize("beam", [0, 2])
def test_a_clip_gets_the_same_words_alone_and_in_a_batch(fields, beam):
    engine = stt.load(fields | {"beam": beam})
    waves = [wave(seed, seconds) * gain for seed, seconds, gain in ((0, 1.0, 1.0), (1, 2.3, 0.01), (2, 0.05, 1.0))]
    together = engine.texts(waves)
    assert together == [engine.texts([one])[0] for one in waves]
    assert len(set(together)) > 1


def test_a_clip_of_more_than_30_s_is_transcribed_to_its_end(engine):
    start = wave(0, 31.0)
    one, other = (np.concatenate([start, wave(seed, 20.0)]) for seed in (3, 4))
    short, (first, second) = wave(1), engine.texts([one, other])
    assert first != second
    assert engine.texts([short, one, short]) == [engine.texts([short])[0], first, engine.texts([short])[0]]


def test_what_is_transcribed_once_is_never_transcribed_again(fields, tmp_path, batches, monkeypatch):
    clips = recordings(tmp_path / "a", 6)
    words, failures = stt.transcribe_clips(clips, fields, str(tmp_path))
    assert batches == [4, 2] and not failures and all(isinstance(word, str) for word in words)
    batches.clear()
    monkeypatch.setattr(stt, "load", lambda _: pytest.fail("loaded Whisper for nothing"))
    monkeypatch.setattr(stt, "_waveform", lambda _: pytest.fail("decoded a recording for nothing"))
    assert stt.all_cached(clips, fields, str(tmp_path))
    assert stt.transcribe_clips(clips[::-1], fields, str(tmp_path)) == (words[::-1], {})
    assert batches == []


def test_the_same_sound_under_another_name_is_not_transcribed_again(fields, tmp_path, batches):
    clips = recordings(tmp_path / "a", 3)
    words, _ = stt.transcribe_clips(clips + recordings(tmp_path / "twice", 3), fields, str(tmp_path))
    assert words[:3] == words[3:] and sum(batches) == 3
    samples, rate_hz = soundfile.read(clips[0].path, dtype="int16")
    soundfile.write(tmp_path / "other.flac", samples, rate_hz, subtype="PCM_16")
    other = Clip("other corpus", "joy", "s", str(tmp_path / "other.flac"))
    assert stt.transcribe_clips([other], fields, str(tmp_path))[0] == words[:1]
    assert sum(batches) == 3


def test_a_changed_recording_or_setting_is_transcribed_anew(fields, tmp_path, batches):
    clips = recordings(tmp_path / "a", 2)
    before, _ = stt.transcribe_clips(clips, fields, str(tmp_path))
    soundfile.write(clips[0].path, wave(9, 2.0, RATE_HZ), RATE_HZ)
    after, _ = stt.transcribe_clips(clips, fields, str(tmp_path))
    assert sum(batches) == 3 and after[1] == before[1]
    for change in ({"prompt": "Oh my God"}, {"beam": 2}):
        stt.transcribe_clips(clips, fields | change, str(tmp_path))
    part = Clip("part", "joy", "s", clips[1].path, start_s=0.5)
    stt.transcribe_clips([part], fields, str(tmp_path))
    assert sum(batches) == 3 + 2 + 2 + 1
    assert len(list((tmp_path / "transcripts").glob("*.jsonl"))) == 3


def test_transcripts_by_another_version_of_the_engine_are_not_taken(fields, tmp_path, batches, monkeypatch):
    clips = recordings(tmp_path / "a", 2)
    stt.transcribe_clips(clips, fields, str(tmp_path))
    real = fingerprint.of_modules
    monkeypatch.setattr(fingerprint, "of_modules", lambda *a, **k: real(*a, **k) | {stt_openai.__name__: "edited"})
    assert not stt.all_cached(clips, fields, str(tmp_path))
    stt.transcribe_clips(clips, fields, str(tmp_path))
    assert batches == [2, 2]


def test_a_torn_last_line_is_cut_off_and_its_clip_done_again(fields, tmp_path, batches):
    clips = recordings(tmp_path / "a", 3)
    words, _ = stt.transcribe_clips(clips, fields, str(tmp_path))
    path = cache_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-17])
    batches.clear()
    assert stt.transcribe_clips(clips, fields, str(tmp_path))[0] == words
    assert batches == [1] and path.read_bytes() == whole


def test_a_killed_run_continues_where_it_stopped(fields, tmp_path, batches):
    clips = recordings(tmp_path / "a", 12)
    fields = fields | {"whisper_batch": 1}
    call = f"stt.transcribe_clips({clips!r}, {fields!r}, {str(tmp_path)!r})"
    job = f"from emoflax.data.clip import Clip\nfrom emoflax.features import stt\n{call}"
    with subprocess.Popen([sys.executable, "-c", job], cwd=ROOT, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (done := _lines(tmp_path)) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        errors = process.stderr.read().decode()
    done = _lines(tmp_path)
    assert 0 < done < len(clips), errors
    words, _ = stt.transcribe_clips(clips, fields, str(tmp_path))
    assert sum(batches) == len(clips) - done
    assert words == stt.transcribe_clips(clips, fields, str(tmp_path / "uninterrupted"))[0]


def _lines(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("transcripts/*.jsonl"))


def test_unreadable_recordings_are_counted_and_listed_and_the_rest_is_done(fields, tmp_path, caplog):
    logging.set_verbosity(logging.WARNING)
    clips = recordings(tmp_path / "a", 3)
    Path(clips[0].path).write_text("not a recording")
    os.remove(clips[2].path)
    words = text.transcripts(Corpus("a/b", ("joy",), tuple(clips)), fields, str(tmp_path))
    assert [word is None for word in words] == [True, False, True]
    assert "2 of 3 clips" in caplog.text
    listed = (tmp_path / "transcripts" / "a_b-without-whisper-text.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == ["clip0", "clip2"]


def test_one_file_gets_the_words_that_it_has_in_a_corpus_and_whisper_is_loaded_once(fields, tmp_path, monkeypatch):
    clips = recordings(tmp_path / "a", 2)
    words, _ = stt.transcribe_clips(clips, fields, str(tmp_path / "corpus"))
    loads, real = [], stt.load
    monkeypatch.setattr(stt, "load", lambda fields: loads.append(1) or real(fields))
    own = fields | {"source": "auto"}
    alone = [text.transcribe(*decode.decode(clip.path), own, str(tmp_path / "one")) for clip in clips]
    assert alone == words and len(loads) <= 1


def test_a_model_that_guesses_the_language_does_so_for_every_clip(tmp_path, fields):
    weights = tiny_whisper.write(tmp_path / "many.pt", multilingual=True)
    engine = stt.load(fields | {"whisper_model": str(weights), "language": ""})
    assert len(engine.texts([wave(0), wave(1), wave(2, 31.0)])) == 3


def test_auto_takes_weights_that_are_there_and_says_nothing(fields, tmp_path, offline, caplog):
    corpus = Corpus("toy", ("joy",), tuple(recordings(tmp_path / "a", 1)))
    assert text.transcripts(corpus, fields | {"source": "auto"}, str(tmp_path)) != ["reference 0"]
    assert "NO WHISPER" not in caplog.text


def test_auto_without_weights_and_network_takes_the_reference_under_a_banner(fields, tmp_path, offline, caplog):
    logging.set_verbosity(logging.WARNING)
    corpus = Corpus("toy", ("joy",), tuple(recordings(tmp_path / "a", 2)))
    auto = fields | {"source": "auto", "whisper_model": "tiny.en"}
    assert text.transcripts(corpus, auto, str(tmp_path)) == ["reference 0", "reference 1"]
    assert "NO WHISPER" in caplog.text and str(offline) in caplog.text
    mute = Corpus("toy", ("joy",), (Clip("c", "joy", "s", corpus.clips[0].path),))
    with pytest.raises(UserError, match="no reference text, and Whisper is not available"):
        text.transcripts(mute, auto, str(tmp_path))


@pytest.mark.parametrize("half_a_download", [False, True])
def test_whisper_without_weights_and_network_says_which_file_goes_where(fields, tmp_path, offline, half_a_download):
    if half_a_download:
        offline.mkdir(parents=True)
        (offline / "tiny.en.pt").write_bytes(b"half")
    corpus = Corpus("toy", ("joy",), tuple(recordings(tmp_path / "a", 1)))
    with pytest.raises(UserError) as caught:
        text.transcripts(corpus, fields | {"whisper_model": "tiny.en"}, str(tmp_path))
    for part in ("https://", "Put tiny.en.pt", str(offline), "checksum" if half_a_download else "missing"):
        assert part in str(caught.value)


def test_large_weights_are_looked_for_under_the_name_that_they_have_on_disk(offline):
    with pytest.raises(WeightsUnavailable, match=r"Put large-v3\.pt"):
        stt.locate_weights({"engine": "openai-whisper", "whisper_model": "large"})


@pytest.mark.parametrize("source", ["whisper", "auto"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 torn", None])
def test_a_broken_checkpoint_is_named_and_nothing_falls_back(fields, tmp_path, content, source):
    broken = tmp_path / "broken.pt"
    if content is None:
        import torch

        torch.save({"weights": 1}, broken)
    else:
        broken.write_bytes(content)
    corpus = Corpus("toy", ("joy",), tuple(recordings(tmp_path / "a", 1)))
    with pytest.raises(UserError, match=r"broken\.pt could not be loaded"):
        text.transcripts(corpus, fields | {"whisper_model": str(broken), "source": source}, str(tmp_path))


@pytest.mark.parametrize("source", ["whisper", "auto"])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"whisper_model": "bass.en"}, "base.en"),
        ({"whisper_model": "/nowhere/my.pt"}, "neither a file"),
        ({"language": "klingon"}, "unknown to Whisper"),
        ({"language": "de"}, "English only"),
        ({"whisper_batch": 0}, "at least 1"),
        ({"engine": "ears"}, "faster-whisper"),
    ],
)
def test_a_setting_that_whisper_does_not_know_is_one_clear_error(fields, tmp_path, offline, source, change, message):
    corpus = Corpus("toy", ("joy",), tuple(recordings(tmp_path / "a", 1)))
    with pytest.raises(UserError, match=message):
        text.transcripts(corpus, fields | {"source": source} | change, str(tmp_path))


def test_a_cache_that_cannot_be_written_is_one_clear_error(fields, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="data.cache_dir"):
        stt.transcribe_clips(recordings(tmp_path / "a", 1), fields, str(tmp_path / "file"))


def test_importing_the_text_module_imports_neither_torch_nor_audio_libraries():
    code = "import sys, json, emoflax.features.text; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)
    assert not {"torch", "whisper", "librosa", "soundfile", "soxr", "sklearn"} & set(json.loads(done.stdout))
