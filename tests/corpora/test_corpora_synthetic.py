"""The built-in corpus: the same everywhere, whole or absent, and in need of both sound and words."""

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from emoflax.corpora import ravdess, synthetic
from emoflax.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def corpus(cache):
    return synthetic.load("", cache)


def _samples(path: str) -> np.ndarray:
    with wave.open(path) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_full_corpus_holds_24_speakers_with_four_clips_of_each_ravdess_emotion(corpus):
    assert corpus.name == "synthetic" and corpus.labels == ravdess.LABELS and "synthetic" in corpus.notice
    assert len(corpus.speakers) == 24
    counts = {(clip.speaker, clip.label): 0 for clip in corpus.clips}
    for clip in corpus.clips:
        counts[clip.speaker, clip.label] += 1
    assert len(counts) == 24 * 8 and set(counts.values()) == {4}
    assert [clip.id for clip in corpus.clips] == sorted({clip.id for clip in corpus.clips})
    assert corpus.has_audio and corpus.has_text
    assert all(3 <= len(clip.text.split()) <= 6 for clip in corpus.clips)


def test_every_clip_is_a_short_sound_that_neither_clips_nor_is_silent(corpus):
    for clip in corpus.clips[::7]:
        samples = _samples(clip.path)
        assert 0.4 < len(samples) / 16_000 < 2.5
        assert 0.01 < np.abs(samples).max() < 0.999
    assert len({_samples(clip.path).tobytes() for clip in corpus.clips[:100]}) == 100


def test_a_smaller_corpus_is_bit_for_bit_part_of_the_larger_one_and_can_be_loaded_by_its_folder(tmp_path, corpus):
    synthetic.make(tmp_path / "small", speakers=2, clips_per_emotion=1)
    small = synthetic.load(str(tmp_path / "small"), str(tmp_path / "unused"))
    full = {clip.id: clip for clip in corpus.clips}
    assert len(small.clips) == 16 and not (tmp_path / "unused").exists()
    for clip in small.clips:
        assert Path(clip.path).read_bytes() == Path(full[clip.id].path).read_bytes()
        assert clip.text == full[clip.id].text and clip.label == full[clip.id].label


def test_a_corpus_that_is_there_is_not_made_again(cache, corpus):
    times = [os.stat(clip.path).st_mtime_ns for clip in corpus.clips]
    assert synthetic.load("", cache) == corpus
    assert [os.stat(clip.path).st_mtime_ns for clip in corpus.clips] == times


def test_a_killed_generation_leaves_no_corpus_and_the_next_one_makes_it_whole(tmp_path):
    code = "import sys; from emoflax.corpora import synthetic; synthetic.make(sys.argv[1], speakers=2)"
    command = [sys.executable, "-c", code, str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT)
    while not list(tmp_path.rglob("*.wav")):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists() and list(tmp_path.rglob("*.wav"))

    subprocess.run(command, cwd=ROOT, check=True)
    synthetic.make(tmp_path / "whole", speakers=2)
    assert _digests(tmp_path / "killed") == _digests(tmp_path / "whole")
    assert not list(tmp_path.rglob("*.part"))


def test_two_processes_that_make_it_at_once_both_find_it_whole(tmp_path):
    code = (
        "import sys; from emoflax.corpora import synthetic; synthetic.make(sys.argv[1], 2, 1); "
        "print(len(synthetic.load(sys.argv[1], '').clips))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "shared")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["16", "16"]


def test_a_folder_that_is_no_synthetic_corpus_or_has_lost_files_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"not a synthetic corpus.*config\.data\.dir"):
        synthetic.load(str(tmp_path), "")
    synthetic.make(tmp_path / "c", speakers=1, clips_per_emotion=1)
    (tmp_path / "c" / "speaker_01" / "sad-01.wav").unlink()
    with pytest.raises(UserError, match=r"1 of 8 files.*speaker_01/sad-01\.wav.*Delete the folder"):
        synthetic.load(str(tmp_path / "c"), "")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot write .*file/synthetic.*cache_dir"):
        synthetic.load("", str(tmp_path / "file"))


def test_the_index_can_be_read_as_a_manifest(tmp_path):
    synthetic.make(tmp_path / "c", speakers=1, clips_per_emotion=1)
    with open(tmp_path / "c" / "clips.csv", newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["file", "emotion", "speaker", "text"]
    assert all((tmp_path / "c" / row["file"]).is_file() for row in rows)


def test_the_topics_have_the_same_rhythm_so_that_the_sound_does_not_reveal_them():
    rhythms = {tuple(sorted(words.values())) for words in synthetic.TOPICS.values()}
    assert len(rhythms) == 1
    assert len(set(synthetic.EMOTIONS.values())) == len(synthetic.EMOTIONS)


def _prosody(path: str) -> np.ndarray:
    """Log power in 24 bands (mean, spread, most), pitch by autocorrelation (same, and how it ends), duration."""
    samples = _samples(path)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::256] * np.hanning(1024)
    power = np.abs(np.fft.rfft(frames, 2048)) ** 2
    loud = power.sum(1) > power.sum(1).max() * 10**-3.5
    power = power[loud]
    edges = np.geomspace(4, 1024, 25).astype(int)
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-7)
    echo = np.fft.irfft(power, axis=1)[:, 16_000 // 450 : 16_000 // 65]
    pitch = -np.log2(echo.argmax(1) + 16_000 // 450)
    spread = np.percentile(pitch, [10, 50, 90])
    shape = [*spread, pitch.std(), pitch[-8:].mean() - spread[1], np.abs(np.diff(pitch)).mean(), loud.sum()]
    return np.concatenate([bands.mean(0), bands.std(0), bands.max(0), shape])


def test_neither_the_words_nor_the_sound_suffice_and_together_they_nearly_do(corpus):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.preprocessing import StandardScaler

    label = np.array([clip.label for clip in corpus.clips])
    train = np.array([int(clip.speaker[-2:]) <= 16 for clip in corpus.clips])
    text = TfidfVectorizer().fit_transform([clip.text for clip in corpus.clips]).toarray()
    sound = np.stack([_prosody(clip.path) for clip in corpus.clips])
    sound = StandardScaler().fit(sound[train]).transform(sound)

    def uar(features: np.ndarray) -> float:
        model = LogisticRegression(C=0.1, max_iter=500).fit(features[train], label[train])
        return recall_score(label[~train], model.predict(features[~train]), average="macro")

    from_text, from_sound, from_both = uar(8 * text), uar(sound), uar(np.concatenate([sound, 8 * text], axis=1))
    assert 0.35 < from_text < 0.6 and 0.4 < from_sound < 0.65  # far above chance (0.125), far from the whole
    assert from_both > max(from_text, from_sound) + 0.2
    assert from_both < 0.97  # and never trivial


def test_what_a_report_says_can_be_reached_is_what_the_best_guess_from_the_topic_reaches(corpus, monkeypatch):
    topic_of = {word: topic for topic, words in synthetic.TOPICS.items() for word in words}
    topics = [next(topic_of[word] for word in clip.text.split() if word in topic_of) for clip in corpus.clips]
    pairs = [(clip.label, topic) for clip, topic in zip(corpus.clips, topics, strict=True)]
    best = sum(max(pairs.count((label, topic)) for label in corpus.labels) for topic in synthetic.TOPICS)
    reachable = synthetic.reachable(corpus.labels)
    assert reachable["words"] == pytest.approx(best / len(pairs), abs=0.02)
    assert reachable["words"] < reachable["sound"] < reachable["both"] < 1
    monkeypatch.setattr(synthetic, "RANDOM_MANNER_SHARE", 0.0)
    monkeypatch.setattr(synthetic, "RANDOM_TOPIC_SHARE", 0.0)
    exact = {"sound": 5 / 8, "words": 4 / 8, "both": 1}  # five manners and four topics for eight emotions
    assert synthetic.reachable(corpus.labels) == pytest.approx(exact)
    assert synthetic.reachable(("sad", "angry")) == pytest.approx({"sound": 1, "words": 0.5, "both": 1})
