"""Attention drawn over spectrogram and words, and prediction from what there is of sound and words."""

import dataclasses
import logging

import numpy as np
import pytest
import soundfile

from emoflax.configs import attention_gru, fusion_late, tiny
from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.experiment.features import max_frames
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.inference import explain, recordings, utterances
from emoflax.training import scoring

LABELS = ["angry", "calm"]
WORDS = ["money", "sea"]


def config_of(module=fusion_late):
    config = module.get_config()
    config.audio.mels, config.model.cnn.channels = 16, (2, 4)
    config.model.gru.embedding, config.model.gru.hidden, config.model.attention.hidden = 4, 4, 3
    config.data.buckets = 1
    return config


@pytest.fixture(scope="module")
def trained():
    """A model with random weights in the shape that a checkpoint has after it was read."""
    config = config_of()
    model = build_model(config, len(WORDS), len(LABELS), seed=0)
    train_config = train_config_of(config, model, steps_per_epoch=1)
    description = {"labels": LABELS, "vocabulary": WORDS, "corpus": "made", "notice": "",
                   "protocol": "loso", "fold": 1, "seed": 0}  # fmt: skip
    return evaluate.Trained(config, description, train_config.model, train_config.init(model, 0))


def make_utterances(folder, frames, words):
    rng = np.random.default_rng(0)
    return [
        utterances.Utterance(str(folder / str(i) / "speech.wav"), rng.normal(-40, 10, (n, 16)).astype(np.float32), w)
        for i, (n, w) in enumerate(zip(frames, words, strict=True))
    ]


def test_every_input_gets_a_picture_also_without_sound_without_words_and_beyond_one_window(trained, tmp_path):
    inputs = make_utterances(tmp_path, [300, 50, 0], [["money", "is", "gone"], [], ["sea"]])
    dataset = explain.dataset_of(trained, inputs)
    written = explain.draw(trained, inputs, np.full((3, 2), 0.5), tmp_path)
    assert [path.name for path in written] == [f"speech-attention{n}.png" for n in ("", "-2", "-3")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)

    of_clips = [[weights for clip, weights in explain.rows(trained, dataset) if clip == i] for i in range(3)]
    assert [len(windows) for windows in of_clips] == [2, 1, 1]
    assert not of_clips[1][0]["text"].any() and not of_clips[2][0]["audio"].any()
    last = inputs[0].logmel[300 - max_frames(trained.config) :]
    window = explain.dataset_of(trained, [dataclasses.replace(inputs[0], logmel=last)])
    for name, expected in dict(explain.rows(trained, window))[0].items():
        np.testing.assert_allclose(of_clips[0][1][name], expected, atol=1e-5)


def test_a_curve_is_the_attention_to_each_frame_relative_to_the_mean_frame():
    centres = np.array([2.0, 6.0, 10.0])  # steps of 4 frames
    even = explain.over_time([np.full((3, 2), 1 / 3)], centres, [0], 12, 99)
    np.testing.assert_allclose(even, 1)
    one = explain.over_time([np.array([[0.0], [1.0], [0.0]])], centres, [0], 12, 99)
    np.testing.assert_allclose(one[:, 0], [0] * 4 + [3] * 4 + [0] * 4)
    # Steps without a place in time are left out, and those of one moment are added up.
    patches = explain.over_time([np.array([[0.4], [0.1], [0.2], [0.3]])], np.array([np.nan, 2, 2, 6]), [0], 8, 99)
    np.testing.assert_allclose(patches[:, 0], [1] * 8)
    # Where two windows overlap, their mean counts.
    windows = [np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])]
    overlap = explain.over_time(windows, np.array([2.0, 6.0]), [0, 4], 12, 8)
    np.testing.assert_allclose(overlap[:, 0], [1.5] * 4 + [0] * 4 + [1.5] * 4)


def test_a_model_without_attention_is_refused_with_a_config_that_has_it():
    explain.check(config_of(attention_gru))
    with pytest.raises(UserError, match="'mean_max'.*attention_gru.py.*model.pooling=attention"):
        explain.check(config_of(tiny))


def test_a_recording_without_a_transcript_is_predicted_from_its_sound_and_a_text_from_its_words(
    trained, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where Whisper's weights are not
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # and cannot be downloaded: nothing listens there
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.sin(np.arange(16000) / 20), 16000)
    (tmp_path / "words.txt").write_text("Money!")
    (tmp_path / "empty.txt").write_text(" ")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    trained.config.data.cache_dir = str(tmp_path)
    names = ("a.wav", "b.wav", "words.txt", "empty.txt")
    with caplog.at_level(logging.WARNING):
        gaps, opened = utterances.Gaps(), [recordings.read(tmp_path / name) for name in names]
        made, _, failures = utterances.utterances_of(trained.config, opened, gaps)
        gaps.warn()
    assert [(len(x.logmel) > 0, x.words) for x in made] == [(True, []), (True, []), (False, ["money", "!"])]
    assert list(failures) == [3] and "empty.txt holds no words" in str(failures[3])
    with pytest.raises(UserError, match="latin.txt is no UTF-8"):
        recordings.read(tmp_path / "latin.txt")
    messages = [record.getMessage() for record in caplog.records]
    sound, words = (message for message in messages if message.startswith("predicted from"))
    assert "sound alone" in sound and "b.wav" in sound and "base.en.pt" in sound and "\n" not in sound
    assert "words alone" in words and "words.txt" in words

    p = np.exp(scoring.score(trained.model, trained.state, explain.dataset_of(trained, made)))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(p[0], p[1], rtol=1e-4)
    assert not np.allclose(p[0], p[2], atol=1e-3)


def test_a_model_of_words_alone_still_needs_whisper(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16000) / 20), 16000)
    config = config_of(attention_gru)
    config.data.cache_dir = str(tmp_path)
    with pytest.raises(UserError, match=r"base.en.pt"):
        utterances.utterance_of(config, recordings.read(tmp_path / "a.wav"), utterances.Gaps())
