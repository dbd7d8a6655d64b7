"""Log-mels on the device equal librosa's, and training on waveforms equals training on log-mels."""

import functools
import pathlib

import jax
import numpy as np
import pytest
import soundfile

from emoflax.audio.frontend import LogMel
from emoflax.batch import Batch
from emoflax.configs import tiny
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import logmel_statistics
from emoflax.errors import UserError
from emoflax.experiment.features import dataset_of, features_of
from emoflax.experiment.model import build_model, frontend_of
from emoflax.experiment.train_config import train_config_of
from emoflax.features import log_mel, recording
from emoflax.inference import recordings
from emoflax.training import scoring

RATE_HZ = 16_000
SETTINGS = {"window_ms": 64.0, "hop_ms": 32.0, "mels": 16, "fmin_hz": 50.0, "fmax_hz": 8000.0}


def sound(samples: int, seed: int) -> np.ndarray:
    """Harmonics under a moving pitch, breath and pauses; float32."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(rng.uniform(90, 250) * (1 + 0.2 * np.sin(3 * t))) / RATE_HZ
    wave = sum(np.sin(k * phase) / k for k in range(1, 20)) + 0.05 * rng.normal(size=samples)
    return (rng.uniform(0.01, 0.9) * wave * (np.sin(7 * t) > -0.8) / 4 + 1e-5 * rng.normal(size=samples)).astype(
        np.float32
    )


@functools.partial(jax.jit, static_argnums=0)
def log_mels_of(frontend, batch):
    return frontend(batch)


def batch_of(frontend, waves):
    width = frontend.width(max(len(wave) for wave in waves), 8)
    rows = np.stack([np.pad(wave, (0, width - len(wave))) for wave in waves])
    lengths = np.array([len(wave) for wave in waves], np.int32)
    return Batch(wave=rows, samples=lengths, scale=np.ones(len(waves), np.float32), label=lengths)


@pytest.mark.parametrize(
    "changed",
    [{}, {"window_ms": 25.0, "hop_ms": 10.0, "mels": 80, "fmin_hz": 0.0}, {"window_ms": 37.5, "hop_ms": 17.0}],
    ids=["default", "window shorter than the transform", "hops that do not divide it"],
)
def test_a_padded_batch_of_log_mels_equals_librosas_of_each_clip_alone(changed):
    settings = SETTINGS | changed
    frontend = LogMel(RATE_HZ, **settings)
    waves = [sound(samples, seed) for seed, samples in enumerate([9_001, 23_456, 512, 1, 16_384, 23_551])]
    found = log_mels_of(frontend, batch_of(frontend, waves))
    assert found.arrays().keys() == {"logmel", "frames", "label"}
    for wave, logmel, frames in zip(waves, np.asarray(found.logmel), found.frames, strict=True):
        expected = log_mel.mel_db(wave, sample_rate_hz=RATE_HZ, **settings)
        assert frames == len(expected)
        np.testing.assert_allclose(logmel[:frames], expected, atol=1e-3)
        assert not logmel[frames:].any()


def test_a_clip_without_sound_has_no_frames():
    frontend = LogMel(RATE_HZ, **SETTINGS)
    found = log_mels_of(frontend, batch_of(frontend, [np.zeros(0, np.float32), sound(9_000, 0)]))
    assert found.frames[0] == 0 and not np.asarray(found.logmel)[0].any()


def test_filters_and_window_are_librosas():
    import librosa

    for mels, fmin_hz, fmax_hz, window_ms in ((64, 50.0, 8000.0, 64.0), (23, 0.0, 3900.0, 25.0)):
        frontend = LogMel(RATE_HZ, window_ms, 10.0, mels, fmin_hz, fmax_hz)
        expected = librosa.filters.mel(sr=RATE_HZ, n_fft=frontend.n_fft, n_mels=mels, fmin=fmin_hz, fmax=fmax_hz)
        np.testing.assert_allclose(frontend._filters(), expected, atol=1e-8)
        window = librosa.util.pad_center(librosa.filters.get_window("hann", frontend.window), size=frontend.n_fft)
        np.testing.assert_allclose(frontend._hann(), window, atol=1e-7)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A config, and one corpus as log-mels and as waveforms; one clip is longer than a window."""
    place = tmp_path_factory.mktemp("stored")
    clips = []
    for i in range(9):
        path = place / f"{i}.wav"
        soundfile.write(path, sound(110_000 if i == 8 else 14_000 + 900 * i, i), RATE_HZ, subtype="PCM_16")
        clips.append(Clip(str(i), "ab"[i % 2], f"s{i % 3}", str(path)))
    corpus, config = Corpus("toy", ("a", "b"), tuple(clips)), tiny.get_config()
    config.data.cache_dir, config.precompute.workers, config.train.batch_size = str(place), 1, 4
    features = {}
    for store in ("logmel", "wave"):
        config.data.store = store
        features[store] = features_of(config, corpus)
    return config, features


def trained_parts(config, features, store, positions):
    config.data.store = store
    model = build_model(config, 0, 2, seed=0)
    mean, std = logmel_statistics(features[store], positions, model.frontend)
    model.normalise.mean[...], model.normalise.std[...] = mean, std
    train_config = train_config_of(config, model, 3)
    return train_config, train_config.init(model, 0), dataset_of(config, features[store], positions, ())


def test_waveform_shards_hold_the_trimmed_recording_in_16_bits(stored):
    config, features = stored
    for position, clip in enumerate(features["wave"].corpus.clips):
        fields = {name: config.audio[name] for name in recording.FIELDS}
        expected = recording.read(clip.path, **fields).wave
        wave, scale = features["wave"].get("wave", position), features["wave"].scale(position)
        assert wave.dtype == np.int16 and np.abs(wave.astype(int)).max() == 32767
        np.testing.assert_allclose(wave * scale, expected, atol=0.51 * scale)
    assert features["wave"].digests == features["logmel"].digests


def test_waveforms_and_log_mels_give_the_same_log_probabilities(stored):
    config, features = stored
    short = np.arange(8)
    parts = (trained_parts(config, features, store, short) for store in ("wave", "logmel"))
    (train_config, state, waves), (_, same, logmels) = parts
    of_waves, of_logmels = (scoring.score(train_config.model, *pair) for pair in ((state, waves), (same, logmels)))
    np.testing.assert_allclose(of_waves, of_logmels, atol=1e-3)


def test_a_long_clip_becomes_windows_that_cover_it(stored):
    config, features = stored
    train_config, state, dataset = trained_parts(config, features, "wave", np.arange(9))
    rows = np.concatenate(dataset.row_clips)
    samples = np.concatenate([bucket.rows.samples[: len(bucket)] for bucket in dataset.buckets])
    whole = len(features["wave"].get("wave", 8))
    assert (rows == 8).sum() == 2 and samples[rows == 8].sum() >= whole > samples.max()
    assert np.isfinite(scoring.score(train_config.model, state, dataset)).all()


def test_one_waveform_alone_gives_what_it_gives_in_a_batch(stored):
    config, features = stored
    config.data.store = "wave"
    frontend, wave, scale = frontend_of(config), features["wave"].get("wave", 2), features["wave"].scale(2)
    batch = batch_of(frontend, [wave, np.repeat(wave, 2)]).replace(scale=np.float32([scale, scale]))
    found = log_mels_of(frontend, batch)
    np.testing.assert_allclose(np.asarray(found.logmel)[0, : found.frames[0]], frontend.alone(wave, scale),
                               atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("field,value", [("data.store", "mp3"), ("audio.frontend", "kaldi")])
def test_unknown_stores_and_frontends_are_refused(stored, field, value):
    config, features = stored
    config = config.copy_and_resolve_references()
    config.data.store = "wave"
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=r"data\.store"):
        features_of(config, features["wave"].corpus)
        frontend_of(config)


def test_prediction_and_evaluation_have_the_same_input(stored):
    config, features = stored
    config.data.store = "wave"
    there = frontend_of(config).alone(features["wave"].get("wave", 3), features["wave"].scale(3))
    here = recordings.sound_of(config, recordings.read(pathlib.Path(features["wave"].corpus.clips[3].path)))
    np.testing.assert_allclose(here, there, atol=1e-4)


def test_shards_without_scales_are_still_read(stored, tmp_path):
    from emoflax.data import shards

    shards.write_shard(tmp_path, 0, [shards.Row("a", np.ones(3))], (), "<f4")
    index = (tmp_path / "shard-00000.json").read_text()
    (tmp_path / "shard-00000.json").write_text(index.replace('"scales": [1.0], ', ""))
    shards.write_manifest(tmp_path, 1, {"kind": "old", "settings": {}})
    assert "scales" not in (tmp_path / "shard-00000.json").read_text()
    assert shards.ShardSet.open(tmp_path, verify=True).scales.tolist() == [1.0]
