"""Alignment takes the best path there is, and the model on aligned clips computes what its docstring states."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emoflax import corpora, models
from emoflax.audio import random_kernels as kernels
from emoflax.audio.channels import CONTOURS
from emoflax.configs import aligned as aligned_config
from emoflax.corpora import synthetic
from emoflax.data.features import logmel_rows
from emoflax.errors import UserError
from emoflax.experiment import closed_form
from emoflax.experiment.features import features_of
from emoflax.experiment.model import build_model
from emoflax.inference import recordings
from emoflax.models import aligned, alignment
from emoflax.models.aligned import Aligned

MELS, STATES, PARTS, KERNELS = 5, 6, 3, 8
CHANNELS = MELS + len(CONTOURS)


def path_cost(distance_TxS, path) -> float:
    return sum(distance_TxS[frame, state] for frame, state in enumerate(path))


def paths(frames: int, states: int):
    """Every way from the first state to the last that stays or goes on by one."""
    for moves in itertools.product((0, 1), repeat=frames - 1):
        if sum(moves) == states - 1:
            yield np.concatenate([[0], np.cumsum(moves)])


@pytest.mark.parametrize("seed", range(3))
def test_the_path_is_the_cheapest_of_all_that_lead_from_the_first_state_to_the_last(seed):
    frames, states = np.array([9, 5, 7]), 4
    distance = np.random.default_rng(seed).uniform(0, 1, (3, 11, states)).astype(np.float32)
    cost, state = alignment.best_path(jnp.asarray(distance), jnp.asarray(frames))
    for clip, count in enumerate(frames):
        best = min(paths(count, states), key=lambda path: path_cost(distance[clip], path))
        np.testing.assert_array_equal(state[clip, :count], best)
        assert cost[clip] == pytest.approx(path_cost(distance[clip], best) / count, rel=1e-5)


def test_a_clip_of_fewer_frames_than_states_still_goes_forward():
    _, state = alignment.best_path(jnp.ones((1, 8, 12)), jnp.array([5]))
    assert (np.diff(state[0, :5]) >= 0).all() and (state >= 0).all() and (state < 12).all()


def spoken(rng, sounds, repeats) -> np.ndarray:
    """Frames of timbre: each sound held for as many frames as `repeats` says."""
    return np.repeat(sounds, repeats, axis=0) + 0.05 * rng.normal(size=(sum(repeats), sounds.shape[1]))


def test_a_template_finds_the_sounds_that_clips_of_one_text_share_however_long_each_is_held():
    rng = np.random.default_rng(0)
    sounds = 3 * rng.normal(size=(4, 9))
    held = rng.integers(3, 9, (40, 4))
    clips = [spoken(rng, sounds, repeats) for repeats in held]
    frames = np.array([len(clip) for clip in clips])
    x = np.stack([np.pad(clip, ((0, frames.max() - len(clip)), (0, 0))) for clip in clips]).astype(np.float32)
    template = alignment.template(jnp.asarray(x), jnp.asarray(frames), 4)
    np.testing.assert_allclose(template, sounds, atol=0.1)
    _, state = alignment.best_path(alignment.distances(jnp.asarray(x), template), jnp.asarray(frames))
    for clip, repeats in enumerate(held):
        np.testing.assert_array_equal(state[clip, : frames[clip]], np.repeat(np.arange(4), repeats))


def model_of(states=STATES, parts=PARTS, **fields) -> Aligned:
    settings = {
        "kernels": KERNELS, "texts": 2, "ridges": (0.3, 1.0), "classes": 2, "dtype": jnp.float32,
    } | fields  # fmt: skip
    model = Aligned(CHANNELS, states=states, parts=parts, rngs=nnx.Rngs(0), **settings)
    shape = model.template[...].shape
    model.template[...] = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    return model


def clips_of(rng, lengths) -> list[np.ndarray]:
    centre, scale = kernels.typical(MELS)
    return [(centre + scale * rng.normal(size=(n, CHANNELS))).astype(np.float32) for n in lengths]


def padded(clips, width):
    x = np.stack([np.pad(clip, ((0, width - len(clip)), (0, 0)), constant_values=7) for clip in clips])
    return jnp.asarray(x), jnp.array([len(clip) for clip in clips])


def test_the_numbers_of_a_clip_do_not_depend_on_padding():
    model, clips = model_of(), clips_of(np.random.default_rng(0), (31, 1, 8))
    describe = jax.jit(model.describe)
    together = describe(*padded(clips, 37))
    for row, clip in zip(together, clips, strict=True):
        np.testing.assert_allclose(row, describe(*padded([clip], len(clip)))[0], atol=1e-6)
    assert np.isfinite(together).all() and (together >= 0).all() and (together <= 1).all()


def test_each_number_is_the_share_of_time_in_which_a_kernel_responds_in_a_part():
    model, (clip,) = model_of(), clips_of(np.random.default_rng(0), (30,))
    numbers = np.asarray(model.describe(*padded([clip], 30))).reshape(2, PARTS, KERNELS)
    centre, scale = kernels.typical(MELS)
    z = np.clip((clip - centre) / scale, -kernels.FAR, kernels.FAR).reshape(15, 2, CHANNELS).mean(1)
    channel, tap, dilation = kernels.draw(KERNELS, MELS, 1.0)
    part = np.asarray(model._align(*padded([clip], 30)))[0, ::2] * PARTS // STATES
    order = np.argsort(dilation, kind="stable")
    reach = [np.clip(np.arange(15)[:, None] + np.arange(-4, 5) * dilation[kernel], 0, 14) for kernel in order]
    response = np.stack(
        [(z @ channel[:, kernel])[near] @ tap[:, kernel] for kernel, near in zip(order, reach, strict=True)], axis=1
    )
    for place in range(KERNELS):
        own = response[:, place]
        for event, row in zip((own > 0.1, own > 0.7), numbers, strict=True):
            expected = [event[part == p].mean() if (part == p).any() else event.mean() for p in range(PARTS)]
            np.testing.assert_allclose(row[:, place], expected, atol=1e-6)


def test_a_louder_recording_gets_the_same_numbers():
    model, (clip,) = model_of(), clips_of(np.random.default_rng(0), (30,))
    louder = clip.copy()
    louder[:, :MELS] += 6
    louder[:, MELS + CONTOURS.index("energy_db")] += 6
    quiet, loud = (model.describe(*padded([x], 30)) for x in (clip, louder))
    assert (np.abs(quiet - loud) < 1e-6).mean() > 0.95  # some responses lie on a level, some cells are clipped


def test_states_that_no_parts_divide_are_refused():
    with pytest.raises(UserError, match="parts divide states"):
        model_of(states=7, parts=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Features of synthetic voices, the config, and a fitted model of the first four of six speakers."""
    folder = tmp_path_factory.mktemp("aligned")
    synthetic.make(folder / "voices", speakers=6, clips_per_emotion=2)
    config = aligned_config.get_config()
    config.data.corpus, config.data.dir = "synthetic", str(folder / "voices")
    config.data.cache_dir, config.precompute.workers = str(folder / "cache"), 1
    config.functionals.speeds = (0.95, 1.0)
    config.model.aligned.update(states=8, parts=4, kernels=32, texts=3)
    corpus = corpora.load("synthetic", config.data.dir, config.data.cache_dir)
    features = features_of(config, corpus)
    model = build_model(config, 0, len(corpus.labels), seed=0)
    seen = np.array([i for i, clip in enumerate(corpus.clips) if clip.speaker in corpus.speakers[:4]])
    solution = closed_form.fit(config, model, features, seen)
    return config, features, model, solution, seen


def test_training_speakers_are_recognised_and_left_out_ones_better_than_by_chance(trained):
    config, features, model, solution, seen = trained
    label = np.array([features.corpus.labels.index(features.corpus.clips[i].label) for i in seen])
    assert (closed_form.predict(config, model, features, seen).argmax(1) == label).mean() > 0.8
    assert solution.uar > 1.5 / model.classes


def test_a_clip_s_log_probabilities_are_the_normalised_mean_over_its_speeds(trained):
    config, features, model, _, seen = trained
    rows, place = logmel_rows(features, seen[:3])
    logits = np.asarray(model(rows), float)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    mean = np.stack([log_p[place == clip].mean(0) for clip in range(3)])
    expected = mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(closed_form.predict(config, model, features, seen[:3]), expected, atol=1e-6)


def test_a_second_model_of_one_shape_compiles_nothing(trained):
    config, features, _, _, seen = trained
    programs = aligned._describe._cache_size(), aligned._template._cache_size()
    again = build_model(config, 0, len(features.corpus.labels), seed=1)
    closed_form.fit(config, again, features, seen[:-1])
    assert (aligned._describe._cache_size(), aligned._template._cache_size()) == programs


def test_rows_and_texts_reach_the_model_in_one_order(trained):
    _, features, model, _, seen = trained
    rows, place = logmel_rows(features, seen)
    assert len(rows) == len(place) == 2 * len(seen)
    np.testing.assert_array_equal(rows[2 * 5 + 1], features.get("logmel@1", seen[5]))
    described = model.describe_all(rows)
    alone = jax.jit(model.describe)(jnp.asarray(rows[7])[None], jnp.array([len(rows[7])]))
    np.testing.assert_allclose(described[7], alone[0], atol=1e-6)


def test_prediction_takes_the_rows_that_training_took(trained):
    config, features, *_ = trained
    rows = recordings.sound_of(config, recordings.read(pathlib.Path(features.corpus.clips[3].path)))
    for kind, frames in zip(features.sounds, rows, strict=True):
        # Worker processes compute with one thread, whose sums are taken in another order.
        np.testing.assert_allclose(frames, features.get(kind, 3), atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"audio.hop_ms": 20.0}, "audio.hop_ms=10"),
        ({"audio.contours": False}, "audio.contours=True"),
        ({"split.protocol": "speakers5+speakernorm"}, "speakernorm moves them"),
    ],
)
def test_settings_that_give_it_no_input_are_refused(trained, fields, reason):
    config = trained[0].copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=reason):
        features_of(config, trained[1].corpus)


def test_it_is_in_the_registry_as_a_frame_level_model():
    assert set(models.FRAME_LEVEL_MODELS) <= set(models.FUNCTIONALS_MODELS)
