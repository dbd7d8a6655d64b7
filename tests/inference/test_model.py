"""The Python API: arrays and files, windows, silence, streams, threads, and nothing that compiles after warm-up."""

import pathlib
import subprocess
import sys
import threading

import cli
import numpy as np
import pytest
import random_bundle
import soundfile
from flax import nnx

import emoflax
from emoflax.configs import tiny
from emoflax.errors import UserError
from emoflax.experiment import evaluate, identity
from emoflax.experiment.model import build_model
from emoflax.inference import member, recordings, windows
from emoflax.inference.model import Model
from emoflax.reporting import calibration
from emoflax.training.step import Weights

LABELS = ["angry", "calm", "sad"]
RATE_HZ = 16_000


def network(seed=0, **fields) -> evaluate.Trained:
    """A model with random weights in the shape that a checkpoint has after it was read."""
    config = tiny.get_config()
    config.update_from_flattened_dict({"model.head": 0, "data.max_s": 3.0} | fields)
    built = build_model(config, 2, len(LABELS), seed)
    if built.normalise:
        built.normalise.set(np.full(16, -30.0), np.full(16, 10.0))
    description = {"labels": LABELS, "vocabulary": ["money", "sea"], "corpus": "made", "notice": "", "protocol": "loso",
                   "code": {part: {} for part in identity.PREDICTION_CODE}}  # fmt: skip
    return evaluate.Trained(config, description, nnx.graphdef(built), Weights.of(built))


@pytest.fixture(scope="module")
def model() -> Model:
    members = [member.Member(f"network-seed{seed}", 0.5, network(seed)) for seed in (0, 1)]
    return Model(members, {}, "memory")


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    rng, t = np.random.default_rng(seed), np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tone = np.sin(2 * np.pi * (150 + 40 * seed) * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (0.2 * tone + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def values(predictions):
    return np.array([list(one.probabilities.values()) for one in predictions])


def test_a_bundle_has_the_temperature_and_the_threshold_of_what_was_chosen_together(model):
    kept = {"temperature": 2.0, "kept": [1.0] * 101, "right": np.linspace(0, 1, 101).tolist()}
    members = [member.Member(f"network-seed{seed}", 0.5, network(seed)) for seed in (0, 1)]
    members[0].config.evaluate.unsure = 0.6
    calibrated = Model(members, {"calibration": kept}, "memory")
    before, after = (np.log(values(one.predict(voice(1.0), RATE_HZ))) for one in (model, calibrated))
    np.testing.assert_allclose(calibration.tempered(before, 2.0), after, atol=1e-5)
    assert calibrated.least_confidence == pytest.approx(0.6) and model.least_confidence == 0
    assert calibrated.predict(voice(1.0), RATE_HZ)[0].unsure == (np.exp(after.max()) < 0.6)


def test_files_and_arrays_of_any_type_rate_and_channels_give_one_prediction_each_in_their_order(model, tmp_path):
    wave = voice(1.3)
    soundfile.write(tmp_path / "a.wav", wave, RATE_HZ, subtype="FLOAT")
    both, whole_numbers = np.stack([wave, wave], 1), (wave * 32767).astype(np.int16)
    of_file, *of_arrays = model.predict([tmp_path / "a.wav", wave, both, whole_numbers], RATE_HZ)
    assert of_file.file == str(tmp_path / "a.wav") and of_arrays[0].file is None
    assert (of_file.start_s, of_file.end_s) == (0.0, pytest.approx(1.3))
    assert sum(of_file.probabilities.values()) == pytest.approx(1) and tuple(of_file.probabilities) == tuple(LABELS)
    assert of_file.label == max(of_file.probabilities, key=of_file.probabilities.get)
    np.testing.assert_allclose(values(of_arrays), np.tile(values([of_file]), (3, 1)), atol=1e-3)
    assert values(model.predict(wave, RATE_HZ)) == pytest.approx(values(of_arrays[:1]), abs=1e-6)


def test_a_batch_gives_what_each_recording_gives_alone(model):
    waves = [voice(seconds, seed) for seed, seconds in enumerate((0.2, 0.7, 1.1, 1.4, 2.2, 2.9, 3.3, 7.5))]
    together = values(model.predict(waves, RATE_HZ))
    alone = np.concatenate([values(model.predict(wave, RATE_HZ)) for wave in waves])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_nothing_compiles_after_warm_up_whatever_lengths_and_numbers_come(model):
    model.warm_up()
    (programs,) = {id(one._score._programs): one._score._programs for one in model.members}.values()  # shared by seeds
    compiled = programs[0]._cache_size()
    assert compiled <= len(member.WIDTH_SHARES) * len(member.BATCHES)
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 17):
        model.predict([voice(seconds) for seconds in rng.uniform(0.05, 8, count)], RATE_HZ)
    assert programs[0]._cache_size() == compiled


def test_windows_lie_hop_by_hop_to_the_end_silent_ones_are_marked_and_not_predicted(model):
    quiet = 1e-5 * np.random.default_rng(0).standard_normal(3 * RATE_HZ).astype(np.float32)
    wave = np.concatenate([voice(2.0), quiet, voice(2.25)])
    rows = model.predict(wave, RATE_HZ, window_s=1.0, hop_s=0.5)
    assert [row.start_s for row in rows] == [*np.arange(0, 6.01, 0.5), 6.25] and rows[-1].end_s == 7.25
    assert [row.start_s for row in rows if row.silent] == [2.0, 2.5, 3.0, 3.5, 4.0]
    assert all(row.label == "" and not row.probabilities for row in rows if row.silent)
    (alone,) = model.predict(wave[RATE_HZ // 2 : RATE_HZ * 3 // 2], RATE_HZ)
    assert values([rows[1]]) == pytest.approx(values([alone]), abs=1e-6)


def test_smoothing_averages_log_probabilities_of_the_windows_around():
    log_p = np.log(np.random.default_rng(0).dirichlet([1, 1, 1], 5))
    middle_s = np.arange(5) * 0.5
    assert np.allclose(windows.smoothed(log_p, middle_s, 0.0), log_p)
    expected = log_p[1:4].mean(0)
    assert np.allclose(windows.smoothed(log_p, middle_s, 1.0)[2], expected - np.logaddexp.reduce(expected))


@pytest.mark.parametrize("fields", [{"window_s": -1.0}, {"window_s": 0.01}, {"hop_s": 1.0},
                                    {"hop_s": 2.0, "window_s": 1.0}, {"window_s": float("nan")}])  # fmt: skip
def test_windows_that_cannot_be_are_refused(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        windows.Windows(**fields)


def test_a_stream_in_chunks_of_any_size_gives_the_windows_of_the_whole(model):
    wave = voice(4.3)
    whole = model.predict(wave, RATE_HZ, window_s=1.5, hop_s=0.5)
    for size in (123, 5_000, 10**6):
        chunks = (wave[begin : begin + size] for begin in range(0, len(wave), size))
        rows = list(model.predict_stream(chunks, RATE_HZ, window_s=1.5, hop_s=0.5))
        assert [row.start_s for row in rows] == pytest.approx([row.start_s for row in whole])
        np.testing.assert_allclose(values(rows), values(whole), atol=1e-6)


def test_threads_get_the_answers_that_one_gets(model):
    waves = [voice(0.5 + 0.3 * seed, seed) for seed in range(8)]
    expected = [values(model.predict(wave, RATE_HZ)) for wave in waves]
    got: dict[int, np.ndarray] = {}

    def work(number):
        for _ in range(3):
            got[number] = values(model.predict(waves[number], RATE_HZ))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for number, p in enumerate(expected):
        np.testing.assert_allclose(got[number], p, atol=1e-6)


def test_embeddings_are_each_members_pooled_vector(model):
    vectors = model.embed([voice(1.0), voice(5.0, 1)], RATE_HZ)
    assert [set(one) for one in vectors] == [{"network-seed0", "network-seed1"}] * 2
    shapes = {vector.shape for one in vectors for vector in one.values()}
    assert len(shapes) == 1 and all(
        np.isfinite(v).all() and v.dtype == np.float32 for one in vectors for v in one.values()
    )
    assert not np.allclose(vectors[0]["network-seed0"], vectors[1]["network-seed0"])


def test_words_can_be_given_and_a_text_is_predicted_from_them(tmp_path):
    fields = {"model.audio": "", "model.text": "gru", "model.gru.embedding": 4, "model.gru.hidden": 4}
    words = Model([member.Member("words", 1.0, network(**fields))], {}, "memory")
    (tmp_path / "said.txt").write_text("Money, money!")
    of_file, of_array = words.predict([tmp_path / "said.txt", voice(1.0)], RATE_HZ, texts=["Money, money!"] * 2)
    assert values([of_file]) == pytest.approx(values([of_array]))
    assert values([of_file]) == pytest.approx(values(words.predict(tmp_path / "said.txt")))
    assert words.takes_text and values([of_file]) != pytest.approx(
        values(words.predict(voice(1.0), RATE_HZ, texts=["sea"]))
    )


def test_a_text_is_refused_by_a_model_of_sound(model, tmp_path):
    (tmp_path / "said.txt").write_text("Money!")
    with pytest.raises(emoflax.UserError, match=r"said\.txt is a text, and the model takes sound"):
        model.predict(tmp_path / "said.txt")


@pytest.mark.parametrize(
    ("inputs", "rate_hz", "message"),
    [
        (np.zeros(16000, np.float32), 16000, "silent"),
        (np.full(16000, np.nan, np.float32), 16000, "not numbers"),
        (np.ones((2, 2, 2), np.float32), 16000, "samples, channels"),
        (np.ones(16000, np.complex64), 16000, "samples, channels"),
        (np.ones(10, np.float32), 16000, "less than 10 ms"),
        (np.ones(16000, np.float32), None, "rate_hz=16000"),
        ("nowhere.wav", None, "nowhere.wav"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(model, inputs, rate_hz, message):
    with pytest.raises(emoflax.UserError, match=message):
        model.predict(inputs, rate_hz)


def test_the_import_is_light_and_the_api_is_what_it_says():
    script = "import emoflax, sys; assert not {'jax', 'flax', 'numpy'} & set(sys.modules); print(emoflax.load.__name__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=cli.ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "load", done.stderr
    assert all(hasattr(emoflax, name) for name in emoflax.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = emoflax.laod


def test_a_recordings_features_are_those_of_training(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(1.0), RATE_HZ)
    config = tiny.get_config()
    sound = recordings.sound_of(config, recordings.read(pathlib.Path(tmp_path / "a.wav")))
    from emoflax.features.log_mel import log_mel

    np.testing.assert_array_equal(sound, log_mel(str(tmp_path / "a.wav"), **config.audio.to_dict())[0])


SHARDED = """
import jax, numpy as np, emoflax
from emoflax.inference import member
from emoflax.parallel import mesh
shards, place = [], mesh.shard_rows
mesh.shard_rows = lambda batch, own: shards.append(len(batch.frames)) or place(batch, own)
model = emoflax.load("bundle")
waves = [np.random.default_rng(i).normal(0, 0.1, 16_000 + 500 * i).astype(np.float32) for i in range(18)]
alone = [model.predict(wave, rate_hz=16_000)[0].probabilities for wave in waves]
assert jax.device_count() == 2 and not shards
together = [one.probabilities for one in model.predict(waves, rate_hz=16_000)]
assert sum(shards) >= 16, shards
print(max(abs(a[label] - b[label]) for a, b in zip(alone, together, strict=True) for label in a))
"""


def test_batches_are_sharded_over_all_devices_and_give_what_each_recording_gets_alone(tmp_path):
    random_bundle.write(tmp_path / "bundle")
    environment = cli.ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(cli.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5
