"""Disturbed copies of recordings: the same every time, each another one; models learn from them and predict without."""

import numpy as np
import pytest
import soundfile

from emoflax.configs import aligned, functionals, tiny
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError
from emoflax.experiment import checks, closed_form
from emoflax.experiment.features import dataset_of, features_of
from emoflax.experiment.model import build_model
from emoflax.features import disturb, recording

RATE_HZ = 16_000
FIELDS = {"sample_rate_hz": RATE_HZ, "trim_db": 0.0, "level": "normalised"}


def voice(seed, seconds=0.4):
    random, t = np.random.default_rng(seed), np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * (110 + 90 * (seed % 2)) * k * t + k) / k for k in range(1, 30))
    return (0.05 * tones * (1.2 + np.sin(9 * t)) + 2e-4 * random.normal(size=len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """24 clips of four speakers, high and low voices."""
    folder, clips = tmp_path_factory.mktemp("voices"), []
    for i in range(24):
        soundfile.write(folder / f"{i:02d}.wav", voice(i), RATE_HZ, subtype="FLOAT")
        clips.append(Clip(f"{i:02d}", ("low", "high")[i % 2], f"s{i // 6}", str(folder / f"{i:02d}.wav")))
    return Corpus("toy", ("low", "high"), tuple(clips))


def test_a_copy_is_the_same_every_time_and_another_one_by_number_and_recording(corpus):
    first, again, second = (disturb.read_copy(corpus.clips[0].path, 0.0, None, n, **FIELDS) for n in (1, 1, 2))
    np.testing.assert_array_equal(first.wave, again.wave)
    assert len(first.wave) != len(second.wave) or not np.allclose(first.wave, second.wave)
    own = recording.read(corpus.clips[0].path, **FIELDS)
    assert first.digest == second.digest == own.digest  # identical recordings are still found
    assert not np.allclose(first.wave[: len(own.wave)], own.wave, atol=1e-3)


def test_copies_differ_in_band_background_and_room_and_none_is_clean():
    one, made = voice(0, 1.0), []
    for seed in range(40):
        samples, rate_hz = disturb.copy_of(one, RATE_HZ, np.random.default_rng(seed))
        assert samples.dtype == np.float32 and np.isfinite(samples).all()
        assert 0.95 < len(samples) / rate_hz < 2.1  # a room rings on
        made.append((rate_hz, len(samples) / rate_hz > 1.01, len(samples) == len(one) and np.allclose(samples, one)))
    narrow, ringing, clean = np.array(made).T
    assert 0.2 < (narrow < RATE_HZ).mean() < 0.6 and 0.15 < ringing.mean() < 0.6 and not clean.any()


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
@pytest.mark.parametrize("kind", ["coloured", "babble"])
def test_noise_is_as_far_under_the_speech_as_asked(snr_db, kind):
    one, random = voice(0, 1.0), np.random.default_rng(0)
    noise = disturb.coloured(len(one), 1.0, random) if kind == "coloured" else disturb.babble_of(one, random)
    added = disturb.add(one, RATE_HZ, noise, snr_db) - one
    assert 20 * np.log10(one.std() / added.std()) == pytest.approx(snr_db, abs=1)


def test_a_fit_learns_from_copies_and_predicts_and_calibrates_without_them(corpus, tmp_path):
    config = functionals.get_config()
    config.functionals.speeds, config.data.copies = (1.0, 0.97), 2
    config.data.cache_dir, config.precompute.workers = str(tmp_path), 1
    features, everyone = features_of(config, corpus), np.arange(24)
    assert features.copies == ("copy1", "copy2")
    (rows, place), (more, places) = (closed_form.rows_of(config, features, everyone, copies=c) for c in (False, True))
    assert len(rows) == 48 and len(more) == 96 and np.array_equal(places, np.repeat(everyone, 4))
    np.testing.assert_array_equal(more.reshape(24, 4, -1)[:, :2], rows.reshape(24, 2, -1))  # copies come last
    model = build_model(config, 0, 2, 0)
    solution = closed_form.fit(config, model, features, everyone)
    assert solution.left_out.shape == (96, 2)
    clips, log_p = closed_form.left_out(solution, features, everyone)
    clean = solution.left_out.reshape(24, 4, 2)[:, :2]
    clean = (clean - np.logaddexp.reduce(clean, axis=2, keepdims=True)).mean(1)
    np.testing.assert_array_equal(clips, everyone)
    np.testing.assert_array_equal(log_p.argmax(1), clean.argmax(1))
    assert closed_form.predict(config, model, features, everyone).shape == (24, 2)
    assert features.usual_conditions(everyone)["bandwidth_hz"][0] < 7_000  # a narrow band is usual now


def test_a_network_trains_on_the_rows_of_copies_and_is_scored_without_them(corpus, tmp_path):
    config = tiny.get_config()
    config.data.copies, config.data.cache_dir, config.precompute.workers = 2, str(tmp_path), 1
    few = Corpus("toy", corpus.labels, corpus.clips[:6])
    features, weights = features_of(config, few), np.arange(1, 6, dtype=np.float32)
    made = dataset_of(config, features, np.arange(1, 6), (), weights, train=True)
    kept = {}
    for bucket, clips in zip(made.buckets, made.row_clips, strict=True):
        for row, clip in enumerate(clips):
            frames = int(bucket.rows.frames[row])
            kept[clip] = np.asarray(bucket.rows.logmel[row, :frames])
            assert bucket.rows.label[row] == made.clips[clip] % 2 and bucket.rows.weight[row] == made.clips[clip]
    assert made.clips.tolist() == [1, 2, 3, 4, 5] * 3 and len(kept) == 15
    for clip, logmel in kept.items():
        kind = ("logmel", "copy1", "copy2")[clip // 5]
        np.testing.assert_array_equal(logmel, features.get(kind, int(made.clips[clip])))
    assert dataset_of(config, features, np.arange(1, 6), ()).clips.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("field", "value"), [("data.store", "wave"), ("split.protocol", "speakers5+speakernorm")])
def test_copies_are_refused_where_they_would_not_be_used_or_not_be_normalised(field, value):
    config = tiny.get_config()
    config.update_from_flattened_dict({"data.copies": 1, field: value})
    with pytest.raises(UserError, match="config.data.copies"):
        checks.prepare(config)


def test_copies_of_log_mels_have_the_channels_of_the_clips(corpus, tmp_path):
    config = aligned.get_config()
    config.functionals.speeds, config.data.copies = (1.0,), 1
    config.data.cache_dir, config.precompute.workers = str(tmp_path), 1
    few = Corpus("toy", corpus.labels, corpus.clips[:2])
    features = features_of(config, few)
    rows, place = closed_form.rows_of(config, features, np.arange(2), copies=True)
    assert place.tolist() == [0, 0, 1, 1] and len({row.shape[1] for row in rows}) == 1
    assert features.sounds == ("logmel",)
