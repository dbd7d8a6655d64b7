"""Distortions do to a recording what their names say, the same every time; a gain changes no prediction."""

import argparse
import json

import numpy as np
import pytest
import soundfile

from emoflax.benchmark import robustness
from emoflax.benchmark.distortions import CONDITIONS, Clip
from emoflax.configs import tiny
from emoflax.data.clip import Clip as Recorded
from emoflax.data.clip import Corpus
from emoflax.data.splits import Split
from emoflax.experiment import evaluate
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of

RATE_HZ = 16_000


def voice(seed, seconds=1.0):
    random, t = np.random.default_rng(seed), np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * (120 + 20 * seed) * k * t + k) / k for k in range(1, 40))
    return (0.05 * tones * (1.2 + np.sin(9 * t)) + 1e-3 * random.normal(size=len(t))).astype(np.float32)


CLIP = Clip(voice(0), RATE_HZ, [lambda seed=seed: (voice(seed, 0.7), RATE_HZ) for seed in (1, 2, 3)])


def distorted(name, seed=0):
    samples, rate_hz = CONDITIONS[name](CLIP, np.random.default_rng(seed))
    return samples, rate_hz


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_gives_a_recording_of_about_the_same_length_and_the_same_one_again(name):
    samples, rate_hz = distorted(name)
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all() and samples.std() > 0
    assert 0.75 < len(samples) / rate_hz < 3.1
    np.testing.assert_array_equal(samples, distorted(name)[0])


@pytest.mark.parametrize("kind", ["white noise", "pink noise", "babble"])
def test_noise_is_as_far_under_the_speech_as_its_name_says(kind):
    near, far = (distorted(f"{kind}, SNR {snr} dB")[0] - CLIP.samples for snr in (0, 20))
    assert 20 * np.log10(near.std() / far.std()) == pytest.approx(20, abs=0.1)
    assert 20 * np.log10(CLIP.samples.std() / near.std()) == pytest.approx(0, abs=1)


def test_a_telephone_has_nothing_above_its_band_and_little_beside_the_speech_in_it():
    samples, rate_hz = distorted("telephone G.711")
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    assert (
        rate_hz == 8_000 and power[hz > 3_700].sum() < 1e-3 * power.sum() and power[hz < 200].sum() < 0.05 * power.sum()
    )


@pytest.mark.parametrize("codec", ["Opus 16 kbit/s", "Opus 8 kbit/s", "MP3 40 kbit/s", "MP3 24 kbit/s"])
def test_a_codec_gives_another_wave_of_like_level(codec):
    samples, rate_hz = distorted(codec)
    assert abs(20 * np.log10(samples.std() / CLIP.samples.std())) < 2
    assert rate_hz != RATE_HZ


def test_a_dead_channel_leaves_the_recording_as_it_is():
    np.testing.assert_allclose(distorted("dead channel")[0], CLIP.samples, atol=1e-7)


def test_a_share_of_the_samples_is_clipped():
    samples = distorted("clipped 10 %")[0]
    assert (np.abs(samples) >= np.abs(samples).max() - 1e-7).mean() == pytest.approx(0.1, abs=0.002)


def test_measured_beside_the_clips_as_they_are_a_gain_changes_nothing_and_noise_something(tmp_path):
    config = tiny.get_config()
    clips = []
    for seed in range(6):
        soundfile.write(tmp_path / f"{seed}.wav", voice(seed), RATE_HZ, subtype="FLOAT")
        clips.append(Recorded(str(seed), "ab"[seed % 2], str(seed), str(tmp_path / f"{seed}.wav")))
    corpus, part = Corpus("toy", ("a", "b"), tuple(clips)), np.arange
    model = build_model(config, 0, 2, seed=0)
    made = train_config_of(config, model, 1)
    description = {"labels": ["a", "b"], "vocabulary": [], "corpus": "toy", "notice": "", "protocol": "loso"}
    trained = evaluate.Trained(config, description, made.model, made.init(model, 0))
    split = Split("loso", 1, part(3), part(0), part(3, 6), False)
    p = robustness.measure(trained, corpus, split, split.test, ["gain -20 dB", "babble, SNR 0 dB"])
    label = np.array(corpus.label_numbers(split.test))
    found = {name: robustness.numbers(p[name], p[robustness.CLEAN], label) for name in p}
    assert list(found) == [robustness.CLEAN, "gain -20 dB", "babble, SNR 0 dB"]
    as_recorded, softer, noisy = found.values()
    assert softer == pytest.approx(as_recorded, abs=1e-3) and as_recorded["changed"] == 0
    assert noisy["confidence"] != pytest.approx(as_recorded["confidence"], abs=1e-6)
    text = robustness.table(found)
    assert f"| gain -20 dB | {100 * softer['uar']:.1f} | 0.0 | 0.0 % |" in text
    robustness.draw(tmp_path / "a.png", "t", found, 2)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_scores_by_hand():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    clean = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    found = robustness.numbers(p, clean, np.array([0, 1, 1]))
    assert found["uar"] == pytest.approx(0.75) and found["changed"] == pytest.approx(1 / 3)


def test_the_clips_of_all_folds_of_a_run_are_scored_together(monkeypatch, tmp_path):
    corpus = Corpus("toy", ("a", "b"), tuple(Recorded(str(i), "ab"[i % 2], str(i), "") for i in range(6)))
    tests = {"fold1": np.arange(3), "fold2": np.arange(3, 6)}
    splits = {name: Split("loso", int(name[-1]), np.arange(0), np.arange(0), t, False) for name, t in tests.items()}
    config = tiny.get_config()
    monkeypatch.setattr(robustness, "checkpoints_of", lambda run: [run / name for name in tests])
    monkeypatch.setattr(
        robustness.evaluate, "restore", lambda folder: evaluate.Trained(config, folder.name, None, None)
    )
    monkeypatch.setattr(robustness, "split_of", lambda trained, folder: (corpus, splits[trained.description]))
    right = {name: np.eye(2)[corpus.label_numbers(clips)] for name, clips in tests.items()}
    measured = lambda trained, *_: {robustness.CLEAN: right[trained.description], "noise": right["fold1"]}  # noqa: E731
    monkeypatch.setattr(robustness, "measure", measured)
    robustness.main(
        argparse.Namespace(checkpoint=tmp_path, dir="", part="test", clips=0, only="gain", workdir=tmp_path)
    )
    found = json.loads((tmp_path / "robustness.json").read_text())
    assert found["clips"] == 6 and "fold 1, 2, 6 test clips" in found["title"]
    assert found["conditions"][robustness.CLEAN]["uar"] == 1.0 and found["conditions"]["noise"]["changed"] == 0.5
