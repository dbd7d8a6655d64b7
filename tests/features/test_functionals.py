"""Functionals measure what their names state, and the ridge model on them equals scikit-learn's."""

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import Ridge as SklearnRidge

from emoflax import models
from emoflax.audio.channels import FUNCTIONALS, functionals_count
from emoflax.configs.default import get_config
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import functionals_rows
from emoflax.errors import UserError
from emoflax.experiment import closed_form
from emoflax.experiment.features import features_of
from emoflax.experiment.model import build_model
from emoflax.features import decode, functionals, kernels
from emoflax.inference import recordings
from emoflax.models import ridge
from emoflax.precompute import build

RATE_HZ = 16_000
WANTED = {"statistics": True, "kernels": 0, "speeds": (1.0,)}
PRECOMPUTE = {"workers": 1, "shard_clips": 4, "max_bad_share": 0.2, "runner": ""}


def voice(f0_hz, seconds=0.6, formants=((700, 80), (1200, 90), (2600, 120)), breath=0.0, seed=0):
    """Pulses through resonances, as of a vowel."""
    import scipy.signal

    f0 = np.broadcast_to(np.asarray(f0_hz, float), round(seconds * RATE_HZ))
    phase = np.cumsum(f0 / RATE_HZ)
    wave = np.diff(np.floor(phase), prepend=0) + breath * np.random.default_rng(seed).normal(size=len(f0))
    for hz, width_hz in formants:
        r = np.exp(-np.pi * width_hz / RATE_HZ)
        wave = scipy.signal.lfilter([1], [1, -2 * r * np.cos(2 * np.pi * hz / RATE_HZ), r**2], wave)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def measure(wave, rate_hz=RATE_HZ):
    values, names = functionals.functionals(wave, rate_hz)
    return dict(zip(names, values.tolist(), strict=True))


@pytest.mark.parametrize("f0_hz", [80, 131, 240, 410])
def test_pitch_is_found_from_low_to_high_voices(f0_hz):
    found = measure(voice(f0_hz))
    assert found["semitones@voiced.p50"] == pytest.approx(12 * np.log2(f0_hz / 27.5), abs=0.3)
    assert found["voiced_share"] > 0.9


def test_a_rising_voice_has_a_rising_pitch_and_a_falling_one_a_falling_pitch():
    rising = measure(voice(np.geomspace(120, 240, 9600)))
    falling = measure(voice(np.geomspace(240, 120, 9600)))
    assert rising["semitones@voiced.slope"] == pytest.approx(6, abs=0.6)  # half of an octave from the middle to an end
    assert falling["semitones@voiced.slope"] == pytest.approx(-6, abs=0.6)


def test_formants_are_found():
    found = measure(voice(110))
    for i, hz in ((1, 700), (2, 1200), (3, 2600)):
        assert found[f"formant_{i}@voiced.p50"] == pytest.approx(hz, rel=0.08)


def test_breath_lowers_the_harmonics_to_noise_ratio():
    clean, breathy = measure(voice(150)), measure(voice(150, breath=0.05))
    assert breathy["hnr@voiced.mean"] < clean["hnr@voiced.mean"] - 3


def test_a_louder_recording_has_the_same_shape():
    wave = voice(150, breath=0.02)
    soft, loud = measure(wave / 4), measure(wave)
    assert loud["energy_db.p50"] - soft["energy_db.p50"] == pytest.approx(12.04, abs=0.05)
    for name in ("semitones@voiced.p50", "centroid.p50", "formant_1@voiced.p50", "flux.p50", "energy.4hz"):
        assert loud[name] == pytest.approx(soft[name], rel=1e-3), name


@pytest.mark.parametrize("rate_hz, samples", [(8_000, 80), (16_000, 160), (16_000, 2_400), (44_100, 9_000)])
def test_any_recording_gives_the_same_finite_functionals(rate_hz, samples):
    noise = np.random.default_rng(1).normal(0, 0.1, samples)
    values, names = functionals.functionals(noise, rate_hz)
    assert values.shape == (FUNCTIONALS,) and values.dtype == np.float32 and np.isfinite(values).all()
    assert len(set(names)) == FUNCTIONALS and names == functionals.functionals(np.zeros(samples), rate_hz)[1]


def test_a_faster_recording_is_shorter_and_higher():
    wave = voice(150, seconds=1.0)
    fast = measure(decode.change_speed(wave, 1.1))
    assert fast["semitones@voiced.p50"] == pytest.approx(12 * np.log2(150 * 1.1 / 27.5), abs=0.3)
    assert np.exp(fast["log_duration"]) == pytest.approx(1 / 1.1, abs=0.02)


def test_a_kernel_weighs_channels_and_runs_over_frames_that_lie_its_dilation_apart():
    x = np.random.default_rng(0).normal(size=(17, len(kernels._SCALE))).astype(np.float32)
    found, (channel, tap, dilation) = kernels.convolve(x, 30), kernels.draw(30, 64)
    assert set(dilation) == {1, 2, 3, 4}
    for frame in (0, 8, 16):
        places = np.clip(frame + np.arange(-4, 5)[:, None] * dilation, 0, len(x) - 1)
        expected = [tap[:, k] @ (x @ channel[:, k])[places[:, k]] for k in range(30)]
        np.testing.assert_allclose(found[frame], expected, atol=1e-5)


def test_statistics_of_kernels_come_beside_the_others_or_alone():
    wave = voice(150)
    plain, both = functionals.functionals(wave, RATE_HZ)[0], functionals.functionals(wave, RATE_HZ, True, 25)[0]
    alone, names = functionals.functionals(wave, RATE_HZ, False, 25)
    np.testing.assert_array_equal(both, np.concatenate([plain, alone]))
    assert len(alone) == len(set(names)) == functionals_count(False, 25) and np.isfinite(alone).all()
    mean, std, *above = alone.reshape(5, 25)
    assert (std > 0).all() and (np.diff(above, axis=0) <= 0).all() and np.ptp(mean) > 0.1


@pytest.mark.parametrize(("statistics", "count"), [(False, 0), (True, -1)])
def test_functionals_of_nothing_are_refused(statistics, count):
    with pytest.raises(UserError, match="functionals.kernels must be 0 or more"):
        functionals.check(RATE_HZ, statistics, count)


def test_a_low_sample_rate_is_refused():
    with pytest.raises(UserError, match="sample_rate_hz of at least 8000"):
        build.functionals(
            Corpus("toy", ("x",), ()),
            {"sample_rate_hz": 4_000, "trim_db": 0, "level": "absolute"},
            WANTED,
            "",
            PRECOMPUTE,
        )


def noisy_classes(rng, clips=60, features=200, classes=3, speakers=5):
    label = np.arange(clips) % classes
    x = rng.normal(size=(clips, features)).astype(np.float32)
    x[:, :6] += 2 * np.eye(classes)[label].repeat(2, 1)
    return x - x.mean(0), label, np.array([f"s{i}" for i in (np.arange(clips) // classes) % speakers])


def test_the_solution_is_that_of_scikit_learn_up_to_the_temperature():
    x, label, speaker = noisy_classes(np.random.default_rng(0))
    ours = ridge.solve(x, ridge.Labelled.of(label, 3, speaker), (0.5,)).kernel
    size = (x**2).sum(1).mean()
    theirs = SklearnRidge(alpha=0.5 * size, fit_intercept=False).fit(x, np.eye(3)[label] - 1 / 3).coef_.T
    factor = (ours * theirs).sum() / (theirs**2).sum()
    assert factor > 0
    np.testing.assert_allclose(ours, factor * theirs, atol=1e-4 * np.abs(ours).max())


def test_the_correlation_ratio_is_one_for_what_the_label_decides_and_low_for_noise():
    x, label, _ = noisy_classes(np.random.default_rng(2))
    x[:, -1] = label
    ratio = ridge.correlation_ratio(x, label)
    assert ratio[-1] == pytest.approx(1) and ratio[6:-1].mean() < 0.1 < ratio[:6].min()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Features and a fitted model of 24 clips, by 4 speakers, of low and high voices."""
    folder = tmp_path_factory.mktemp("voices")
    clips = []
    for i in range(24):
        path, high = folder / f"{i:02d}.wav", i % 2
        soundfile.write(path, voice((110, 190)[high] + 5 * (i // 6), 0.3, breath=0.02, seed=i), RATE_HZ)
        clips.append(Clip(path.stem, ("low", "high")[high], f"s{i // 6}", str(path)))
    corpus = Corpus("toy", ("low", "high"), tuple(clips))
    config = get_config()
    config.model.functionals, config.functionals.speeds = "ridge", (1.0, 0.97)
    config.data.cache_dir, config.precompute.workers = str(folder / "cache"), 1
    features = features_of(config, corpus)
    model = build_model(config, 0, classes=2, seed=0)
    solution = closed_form.fit(config, model, features, np.arange(18))
    return config, features, model, solution


def test_a_speaker_who_was_not_in_training_is_recognised(trained):
    config, features, model, solution = trained
    assert solution.uar == 1
    label = [features.corpus.labels.index(clip.label) for clip in features.corpus.clips[18:]]
    assert closed_form.predict(config, model, features, np.arange(18, 24)).argmax(1).tolist() == label


def test_every_speed_is_a_row_of_its_clip(trained):
    _, features, *_ = trained
    rows, place = functionals_rows(features, np.arange(24))
    assert rows.shape[0] == 48 and np.array_equal(place, np.repeat(np.arange(24), 2))


def test_prediction_takes_the_functionals_that_training_took(trained):
    config, features, *_ = trained
    from pathlib import Path

    np.testing.assert_array_equal(
        recordings.sound_of(config, recordings.read(Path(features.corpus.clips[3].path))),
        features.get("functionals", 3),
    )


def test_functionals_beside_an_encoder_are_refused_with_the_way_to_join_them():
    model = get_config().model
    model.functionals, model.audio = "ridge", "cnn"
    with pytest.raises(UserError, match="--mode=crossval"):
        models.build(model.to_dict(), mels=8, vocabulary=3, classes=2, dtype="float32", seed=0)
