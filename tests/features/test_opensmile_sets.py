"""openSMILE's functionals are those that openSMILE computes of the waves that ours are measured on.

Tests of openSMILE itself skip where it is not installed: tests/requirements.txt is for everyone, its licence is not.
"""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

import emoflax
from emoflax.configs import functionals, opensmile
from emoflax.corpora import licences, synthetic
from emoflax.data import splits
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import NotInstalled, UserError
from emoflax.experiment import checks, closed_form
from emoflax.experiment.corpus import corpus_of
from emoflax.experiment.features import features_of
from emoflax.experiment.members import Member
from emoflax.experiment.model import functionals_of
from emoflax.features import opensmile_sets
from emoflax.inference import bundle, model, recordings, sources
from emoflax.selection import fit

RATE_HZ = 16_000
REASON = "openSMILE is free for research alone: pip install -r tests/requirements-opensmile.txt"


@pytest.fixture(autouse=True)
def no_extractor_is_kept():
    opensmile_sets._extractor.cache_clear()
    yield
    opensmile_sets._extractor.cache_clear()


@pytest.fixture
def received(monkeypatch):
    """Waves that a stand-in for openSMILE gets, of which it returns the lowest and the highest sample, and no value."""
    waves = []

    class Frame:
        def to_numpy(self, dtype):
            return np.array([[waves[-1].min(), waves[-1].max(), np.nan, -np.inf]], dtype)

    class Smile:
        def __init__(self, *settings):
            self.settings = settings

        def process_signal(self, wave, rate_hz):
            waves.append(wave)
            return Frame()

    level = types.SimpleNamespace(Functionals="functionals")
    stand_in = types.SimpleNamespace(Smile=Smile, FeatureSet={"eGeMAPSv02": "set"}, FeatureLevel=level)
    monkeypatch.setitem(sys.modules, "opensmile", stand_in)
    return waves


def voice(f0_hz, seconds=0.6, seed=0):
    """Harmonics that fall by 6 dB per octave, in a little noise: float32, peak about 0.3."""
    t, random = np.arange(round(seconds * RATE_HZ)) / RATE_HZ, np.random.default_rng(seed)
    tones = sum(np.sin(2 * np.pi * f0_hz * k * t + k) / k for k in range(1, 30) if k * f0_hz < 7_500)
    return (0.1 * tones + 1e-3 * random.normal(size=len(t))).astype(np.float32)


def of_wave(wave, feature_set="eGeMAPSv02", speeds=(1.0,)):
    return opensmile_sets.of_wave(wave, RATE_HZ, feature_set=feature_set, speeds=speeds)


@pytest.mark.parametrize("feature_set", opensmile_sets.SETS)
def test_without_opensmile_one_sentence_names_the_extra_before_a_recording_is_read(feature_set, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    config = opensmile.get_config()
    config.functionals.feature_set, config.data.cache_dir = feature_set, str(tmp_path)
    with pytest.raises(NotInstalled, match=rf"{feature_set}.*pip install 'emoflax\[opensmile\]'"):
        features_of(config, Corpus("toy", ("x",), (Clip("a", "x", "s", str(tmp_path / "missing.wav")),)))
    with pytest.raises(NotInstalled, match=r"pip install 'emoflax\[opensmile\]'"):
        recordings.sound_of(config, recordings.of_array(voice(120), RATE_HZ, "a"))


def test_what_is_beyond_full_scale_is_clipped_before_it_becomes_16_bits(received):
    lowest, highest, *_ = of_wave(np.array([-3, 0.5, 1.0, 2.0] * 1_000, np.float32))[0]
    assert (lowest * 32_768, highest * 32_768) == (-32_768, 32_767)


def test_silence_follows_a_wave_that_is_too_short_and_a_functional_without_a_value_is_zero(received):
    short, long = of_wave(voice(120, 0.01)), of_wave(voice(120, 0.3))
    assert [len(wave) for wave in received] == [1_600, 4_800] and not received[0][160:].any()
    assert not short[:, 2:].any() and not long[:, 2:].any() and short.dtype == np.float32


def test_every_speed_is_a_row_of_a_wave_so_much_shorter(received):
    assert of_wave(voice(120), speeds=(1.0, 0.9, 1.1)).shape == (3, 4)
    assert [len(wave) / 9_600 for wave in received] == pytest.approx([1, 1 / 0.9, 1 / 1.1], abs=1e-3)


def test_a_low_sample_rate_is_refused(received):
    with pytest.raises(UserError, match="sample_rate_hz of at least 16000"):
        opensmile_sets.check(8_000, "eGeMAPSv02")


def test_shards_of_our_own_functionals_follow_from_the_same_fields_as_before():
    assert closed_form.functionals_of(functionals.get_config()).keys() == {"statistics", "kernels", "speeds"}
    assert closed_form.functionals_of(opensmile.get_config()).keys() == {"feature_set", "speeds"}


def test_everything_but_the_set_is_as_in_functionals():
    ours, theirs = functionals.get_config(), opensmile.get_config()
    theirs.name, theirs.functionals.feature_set = ours.name, "own"
    assert ours == theirs


@pytest.mark.parametrize(("fields", "noted"), [({}, True), ({"functionals.feature_set": "own"}, False)])
def test_the_card_of_a_bundle_says_that_opensmile_has_a_licence(fields, noted):
    config = opensmile.get_config()
    config.update_from_flattened_dict(fields)
    index = fit.index_of(config, Corpus("toy", ("x",), ()), fit.Chosen({config.name: 1.0}, {}, {}, None), {})
    assert (licences.OPENSMILE in index["licences"]) == noted


@pytest.mark.parametrize(("feature_set", "count"), opensmile_sets.SETS.items())
def test_opensmile_returns_as_many_named_finite_functionals_as_the_model_expects(feature_set, count):
    pytest.importorskip("opensmile", reason=REASON)
    names = opensmile_sets.names(feature_set)
    assert len(set(names)) == len(names) == count
    config = opensmile.get_config()
    config.functionals.feature_set = feature_set
    assert functionals_of(config) == count
    for wave in (voice(120), voice(120, 0.01), np.zeros(8_000, np.float32)):
        values = of_wave(wave, feature_set)
        assert values.shape == (1, count) and np.isfinite(values).all()


@pytest.mark.parametrize("f0_hz", [110, 220])
def test_opensmile_measures_the_pitch_of_a_voice_and_of_the_same_voice_played_faster(f0_hz):
    pytest.importorskip("opensmile", reason=REASON)
    place = opensmile_sets.names("eGeMAPSv02").index("F0semitoneFrom27.5Hz_sma3nz_amean")
    usual, faster = of_wave(voice(f0_hz), speeds=(1.0, 1.1))[:, place]
    assert usual == pytest.approx(12 * np.log2(f0_hz / 27.5), abs=0.3)
    assert faster - usual == pytest.approx(12 * np.log2(1.1), abs=0.2)


@pytest.mark.parametrize("feature_set", opensmile_sets.SETS)
def test_of_a_wav_at_its_own_level_they_are_what_opensmile_returns_of_the_file(feature_set, tmp_path):
    package = pytest.importorskip("opensmile", reason=REASON)
    path = tmp_path / "a.wav"
    samples = np.round(voice(150) * 32_768) / 32_768
    soundfile.write(path, samples - np.round(samples.mean() * 32_768) / 32_768, RATE_HZ, subtype="PCM_16")
    config = opensmile.get_config()
    config.functionals.update(feature_set=feature_set, speeds=(1.0,))
    config.audio.update(level="absolute", trim_db=0.0)
    smile = package.Smile(package.FeatureSet[feature_set], package.FeatureLevel.Functionals)
    ours, theirs = recordings.sound_of(config, recordings.read(path))[0], smile.process_file(str(path)).to_numpy()[0]
    close = np.isclose(ours, theirs, rtol=0.02, atol=1e-3 + 0.02 * np.abs(theirs))
    assert close.mean() > 0.95  # the mean that is removed moves samples by up to one step of 16 bits


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Config, corpus, features and folder of a model of three synthetic speakers, at two speeds and with one copy."""
    pytest.importorskip("opensmile", reason=REASON)
    folder = tmp_path_factory.mktemp("opensmile")
    synthetic.make(folder / "voices", speakers=3, clips_per_emotion=1)
    config = opensmile.get_config()
    config.data.update(corpus="synthetic", dir=str(folder / "voices"), cache_dir=str(folder / "cache"), copies=1)
    config.functionals.speeds, config.precompute.workers = (1.0, 0.9), 1
    checks.prepare(config)
    corpus = corpus_of(config)
    features = features_of(config, corpus)
    member = Member(0, splits.everyone(corpus, "loso"), folder / "model")
    closed_form.train_member(config, features, member)
    return config, corpus, features, member


def test_prediction_takes_the_functionals_that_training_took(trained):
    config, corpus, features, _ = trained
    for clip in (0, len(corpus.clips) - 1):
        kept = features.get("functionals", clip)
        assert kept.shape == (2, 88)
        np.testing.assert_array_equal(recordings.sound_of(config, recordings.read(Path(corpus.clips[clip].path))), kept)


def test_a_disturbed_copy_is_one_more_row_and_another_one(trained):
    _, _, features, _ = trained
    copy, own = features.get("copy1", 0), features.get("functionals", 0)
    assert copy.shape == (1, 88) and np.isfinite(copy).all() and not np.allclose(copy, own[:1])
    assert set(features.digests) == {clip.id for clip in features.corpus.clips}


def test_shards_are_found_again_and_are_others_for_the_other_set(trained):
    config, corpus, features, _ = trained
    folders = sorted(Path(config.data.cache_dir).rglob("functionals-*"))
    assert features_of(config, corpus).fingerprints == features.fingerprints
    assert sorted(Path(config.data.cache_dir).rglob("functionals-*")) == folders
    other = config.copy_and_resolve_references()
    other.functionals.update(feature_set="ComParE_2016", speeds=(1.0,))
    other.data.copies = 0
    few = Corpus(corpus.name, corpus.labels, corpus.clips[:2])
    assert features_of(other, few).get("functionals", 1).shape == (1, 6_373)


def test_a_bundle_predicts_what_the_checkpoint_did_and_has_settings_that_name_the_set(trained, tmp_path):
    _, corpus, _, member = trained
    members, _ = sources.members_of(member.folder)
    alone = model.Model(members, {}, "")
    index = {"name": "opensmile", "notice": "", "corpus": corpus.name, "emoflax": emoflax.__version__}
    bundle.write(tmp_path / "bundle", members, index, "", model.check_signal(alone))
    loaded = emoflax.load(tmp_path / "bundle")
    (expected,), (predicted,) = (each.predict(corpus.clips[0].path) for each in (alone, loaded))
    assert predicted.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert loaded.members[0].config.functionals.feature_set == "eGeMAPSv02"
    (vector,) = loaded.embed(corpus.clips[0].path)[0].values()
    assert vector.shape == (88,)
