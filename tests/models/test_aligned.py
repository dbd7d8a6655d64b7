"""Alignment finds the best path there is, and the model on aligned clips hears what it says it hears."""

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
from emoflax.experiment.features import dataset_of, features_of
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.inference.predict import sound_of
from emoflax.models import alignment
from emoflax.models.aligned import Aligned
from emoflax.training import scoring

MELS, STATES, PARTS, KERNELS, RIVALS = 5, 6, 3, 8, 4
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
        "kernels": KERNELS, "rivals": RIVALS, "texts": 2, "ridges": (0.3, 1.0), "classes": 2, "dtype": jnp.float32,
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


def test_what_is_told_of_a_clip_does_not_depend_on_padding():
    model, clips = model_of(), clips_of(np.random.default_rng(0), (31, 1, 8))
    describe = jax.jit(model.describe)
    together = describe(*padded(clips, 37))
    for row, clip in zip(together, clips, strict=True):
        np.testing.assert_allclose(row, describe(*padded([clip], len(clip)))[0], atol=1e-6)
    assert np.isfinite(together).all() and (together >= 0).all() and (together <= 1).all()


def test_each_number_is_the_share_of_time_in_which_a_kernel_responds_in_a_part():
    model, (clip,) = model_of(), clips_of(np.random.default_rng(0), (30,))
    found = np.asarray(model.describe(*padded([clip], 30))).reshape(4, PARTS, KERNELS)
    centre, scale = kernels.typical(MELS)
    z = np.clip((clip - centre) / scale, -kernels.FAR, kernels.FAR).reshape(15, 2, CHANNELS).mean(1)
    channel, tap, dilation = kernels.draw(KERNELS, MELS, 1.0)
    part = np.asarray(model._align(*padded([clip], 30)))[0, ::2] * PARTS // STATES
    order = np.argsort(dilation, kind="stable")
    reach = [np.clip(np.arange(15)[:, None] + np.arange(-4, 5) * dilation[kernel], 0, 14) for kernel in order]
    response = np.stack(
        [(z @ channel[:, kernel])[near] @ tap[:, kernel] for kernel, near in zip(order, reach, strict=True)], axis=1
    )
    rivals = [range(place % (KERNELS // RIVALS), KERNELS, KERNELS // RIVALS) for place in range(KERNELS)]
    for place in range(KERNELS):
        own, group = response[:, place], response[:, rivals[place]]
        highest, lowest = own == group.max(1), own == group.min(1)
        events = own > 0.1, own > 0.7, highest & (own > 0.1), lowest & (own < -0.1)
        for event, row in zip(events, found, strict=True):
            expected = [event[part == p].mean() if (part == p).any() else event.mean() for p in range(PARTS)]
            np.testing.assert_allclose(row[:, place], expected, atol=1e-6)


def test_without_rivals_only_levels_are_told_of():
    alone, rivalling = model_of(rivals=0), model_of()
    clips = padded(clips_of(np.random.default_rng(0), (30, 12)), 30)
    levels = jax.jit(rivalling.describe)(*clips)[:, : 2 * PARTS * KERNELS]
    np.testing.assert_allclose(jax.jit(alone.describe)(*clips), levels, atol=1e-6)


@pytest.mark.parametrize("rivals", [-1, 1, 3])
def test_groups_that_kernels_cannot_be_divided_into_are_refused(rivals):
    with pytest.raises(UserError, match="a divisor of kernels"):
        model_of(rivals=rivals)


def test_a_louder_recording_is_told_the_same_of():
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
    heard = [i for i, clip in enumerate(corpus.clips) if clip.speaker in corpus.speakers[:4]]
    label = np.array([corpus.labels.index(corpus.clips[i].label) for i in heard])
    fit = closed_form.fit(config, model, features, np.array(heard), label)
    return config, features, model, fit, np.array(heard), label


def test_every_speed_is_a_row_of_its_own_and_a_clip_counts_once(trained):
    config, features, _, _, heard, _ = trained
    assert features.sounds == ("logmel", "logmel@1")
    dataset = dataset_of(config, features, heard, ())
    weight = np.concatenate([np.asarray(bucket.rows["weight"]) for bucket in dataset.buckets])
    assert len(weight) == 2 * len(heard) and weight.sum() == pytest.approx(len(heard))


def test_training_speakers_are_told_and_a_checkpoint_would_hold_all_that_it_takes(trained):
    config, features, model, fit, heard, label = trained
    train_config = train_config_of(config, model, 1)
    state = train_config.init(model, 0)
    empty = build_model(config, 0, model.classes, seed=1)  # as when a checkpoint is restored
    log_p = scoring.score(nnx.graphdef(empty), state, dataset_of(config, features, heard, ()))
    assert (log_p.argmax(1) == label).mean() > 0.8
    assert fit.uar > 1.5 / model.classes


def test_rows_and_texts_reach_the_model_in_one_order(trained):
    config, features, model, _, heard, _ = trained
    rows, place = logmel_rows(features, heard)
    assert len(rows) == len(place) == 2 * len(heard)
    np.testing.assert_array_equal(rows[2 * 5 + 1], features.get("logmel@1", heard[5]))
    described = model._describe_all(rows)
    alone = jax.jit(model.describe)(jnp.asarray(rows[7])[None], jnp.array([len(rows[7])]))
    np.testing.assert_allclose(described[7], alone[0], atol=1e-6)


def test_prediction_hears_what_training_heard(trained):
    config, features, *_ = trained
    heard = sound_of(config, pathlib.Path(features.corpus.clips[3].path))
    for kind, frames in zip(features.sounds, heard, strict=True):
        np.testing.assert_array_equal(frames, features.get(kind, 3))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"audio.hop_ms": 20.0}, "audio.hop_ms=10"),
        ({"audio.contours": False}, "audio.contours=True"),
        ({"split.protocol": "speakers5+speakernorm"}, "speakernorm moves them"),
        ({"functionals.speeds": ()}, "one or more from 0.5 to 2"),
        ({"functionals.speeds": (1.0, 3.0)}, "one or more from 0.5 to 2"),
    ],
)
def test_settings_that_it_cannot_hear_with_are_refused(trained, fields, reason):
    config = trained[0].copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=reason):
        features_of(config, trained[1].corpus)


def test_it_is_in_the_registry_as_a_model_that_hears_frames():
    assert set(models.FRAME_LEVEL_MODELS) <= set(models.FUNCTIONALS_MODELS)
