"""What each augmentation of log-mels promises, and that training without any is what it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import setup

from emoflax import augment, experiment, losses, train
from emoflax.augment import Augmentation
from emoflax.errors import UserError
from emoflax.frontend import band_edges_hz

CLASSES, BANDS, WIDTH = 5, 13, 41
FRAMES = np.array([7, 41, 23, 30, 1, 19, 38], np.int32)
MEAN = jnp.linspace(-40, -20, BANDS)
BAND_HZ = tuple(band_edges_hz(BANDS, 50, 8000)[1:-1].tolist())
STRENGTHS = {
    "crop": 0.3, "stretch": 0.3, "vtlp": 0.2, "shift_bands": 2.0, "tilt_db": 9.0, "gain_db": 9.0, "noise": 1.0,
    "mixup": 0.8, "time_masks": 2, "band_masks": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(3)
    logmel = rng.normal(-30, 10, (len(FRAMES), WIDTH, BANDS)).astype(np.float32)
    label = jnp.asarray(rng.integers(0, CLASSES, len(FRAMES)))
    weight = jnp.asarray([1, 2, 0.5, 1, 1, 3, 0], jnp.float32)
    rows = {"frames": jnp.asarray(FRAMES), "label": label, "weight": weight, "target": losses.targets(label, CLASSES)}
    return rows | {"logmel": augment.inside(jnp.asarray(logmel), rows["frames"])}


def augmented(batch, seed=0, **strengths):
    program = jax.jit(Augmentation(**strengths, band_hz=BAND_HZ))
    return program(jax.random.key(seed), batch, MEAN)


def test_off_is_the_identity(batch):
    found = augmented(batch)
    assert found.keys() == batch.keys()
    assert all(np.array_equal(found[name], batch[name]) for name in batch)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_is_a_function_of_its_key_and_changes_only_what_it_may(batch, name):
    first, again, other = (augmented(batch, seed, **{name: STRENGTHS[name]}) for seed in (0, 0, 1))
    assert all(np.array_equal(first[field], again[field]) for field in first)
    assert not np.array_equal(first["logmel"], other["logmel"])
    assert not np.array_equal(first["logmel"], batch["logmel"])
    may = {"logmel"} | {"crop": {"frames"}, "stretch": {"frames"}}.get(name, set())
    may |= {"frames", "target", "weight"} if name == "mixup" else set()
    assert all(np.array_equal(first[field], batch[field]) for field in batch if field not in may)
    outside = np.arange(WIDTH) >= np.asarray(first["frames"])[:, None]
    assert not np.asarray(first["logmel"])[outside].any()
    assert np.isfinite(first["logmel"]).all()
    np.testing.assert_allclose(first["target"].sum(1), 1, rtol=1e-5)


def test_draws_of_one_do_not_depend_on_what_else_is_on(batch):
    masked = augmented(batch, time_masks=2)
    louder = augmented(batch, time_masks=2, gain_db=5.0)
    hidden = [np.all(np.asarray(x["logmel"]) == np.asarray(MEAN), axis=-1) for x in (masked, louder)]
    np.testing.assert_array_equal(*hidden)


def test_under_vmap_each_member_gets_what_it_gets_alone(batch):
    keys = jax.random.split(jax.random.key(5), 2)
    everything = Augmentation(**STRENGTHS, band_hz=BAND_HZ)
    together = jax.vmap(everything, (0, None, None))(keys, batch, MEAN)
    alone = everything(keys[1], batch, MEAN)
    for name in alone:
        np.testing.assert_allclose(together[name][1], alone[name], rtol=1e-4, atol=1e-3)


def test_stretch_and_crop_keep_lengths_in_range_and_resample_a_ramp(batch):
    ramp = augment.inside(jnp.broadcast_to(jnp.arange(WIDTH, dtype=jnp.float32)[None, :, None], batch["logmel"].shape),
                          batch["frames"])  # fmt: skip
    found, frames = augment.warp_time(jax.random.key(1), ramp, batch["frames"], crop=0.0, stretch=0.5)
    rate = FRAMES / np.asarray(frames)
    assert np.all(rate[FRAMES > 5] > 1 / 1.5 - 0.1) and np.all(rate[FRAMES > 5] < 1.6)
    slopes = np.diff(np.asarray(found)[:, :, 0])
    for row in np.flatnonzero((FRAMES > 10) & (np.asarray(frames) < WIDTH)):
        inner = slopes[row, : int(min(frames[row], FRAMES[row] / rate[row])) - 2]
        np.testing.assert_allclose(inner, inner[0], atol=1e-3)
        assert inner[0] == pytest.approx(rate[row], rel=0.1)
    found, frames = augment.warp_time(jax.random.key(2), ramp, batch["frames"], crop=0.5, stretch=0.0)
    assert np.all(np.asarray(frames) >= np.floor(FRAMES * 0.5)) and np.all(np.asarray(frames) <= FRAMES)
    assert np.any(np.asarray(found)[:, 0, 0] > 0.5)  # begins later than the clip did


def test_a_clip_without_sound_stays_without(batch):
    silent = batch | {"frames": batch["frames"] * 0, "logmel": batch["logmel"] * 0}
    found = augmented(silent, **{name: s for name, s in STRENGTHS.items() if name != "mixup"})
    assert not found["frames"].any() and not found["logmel"].any()


def test_vtlp_moves_a_formant_by_the_factor_and_keeps_the_ends(batch):
    bands = 64
    hz = tuple(band_edges_hz(bands, 50, 8000)[1:-1].tolist())
    peak = -(((np.arange(bands) - 30) / 2.0) ** 2)
    x = jnp.broadcast_to(jnp.asarray(peak, jnp.float32)[None, None], (200, 1, bands))
    found = np.asarray(augment.warp_bands(jax.random.key(0), x, vtlp=0.25, shift_bands=0.0, band_hz=hz))[:, 0]
    moved = np.array(hz)[found.argmax(1)] / hz[30]
    assert 0.75 < moved.min() < 0.85 and 1.18 < moved.max() < 1.3
    np.testing.assert_allclose(found[:, -1], peak[-1], rtol=1e-4)


def test_the_shift_moves_all_bands_alike():
    x = jnp.broadcast_to(jnp.arange(20.0)[None, None], (50, 1, 20))
    found = np.asarray(augment.warp_bands(jax.random.key(0), x, vtlp=0.0, shift_bands=3.0, band_hz=()))[:, 0]
    shifts = (found - np.arange(20))[:, 4:16]
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1], shifts.shape), atol=1e-4)
    assert -3 <= shifts.min() < -2 and 2 < shifts.max() <= 3


def test_gain_and_tilt_add_a_straight_line_over_the_bands(batch):
    added = np.asarray(augment.change_level(jax.random.key(0), batch["logmel"], gain_db=6, tilt_db=10)) - np.asarray(
        batch["logmel"]
    )
    np.testing.assert_allclose(np.diff(added, 2), 0, atol=1e-3)
    assert np.all(abs(added.mean((1, 2))) <= 6) and np.ptp(added.mean((1, 2))) > 1
    assert np.all(abs(added[:, 0, -1] - added[:, 0, 0]) <= 10)


def test_noise_comes_at_the_drawn_ratio_to_the_clips_own_power(batch):
    frames, x = batch["frames"], batch["logmel"]
    found = augment.add_noise(jax.random.key(0), x, frames, share=1.0, snr_db=(7.0, 7.0))
    for before, after, n in zip(np.asarray(x), np.asarray(found), FRAMES, strict=True):
        signal, noisy = (np.mean(10 ** (part[:n].astype(float) / 10)) for part in (before, after))
        if n > 10:
            # A cell's deviation of 2.5 dB raises the mean power of the noise by 0.7 dB.
            assert 10 * np.log10(signal / (noisy - signal)) == pytest.approx(7 - 0.7, abs=0.6)
    half = augment.add_noise(jax.random.key(0), jnp.tile(x, (20, 1, 1)), jnp.tile(frames, 20), share=0.3, snr_db=(9, 9))
    changed = np.any(np.asarray(half) != np.tile(x, (20, 1, 1)), axis=(1, 2)).mean()
    assert 0.2 < changed < 0.4


def test_masks_are_the_mean_within_the_clip_and_no_wider_than_allowed(batch):
    for seed in range(5):
        found = np.asarray(augmented(batch, seed, time_masks=1, time_mask_share=0.4)["logmel"])
        hidden = np.all(found == np.asarray(MEAN), axis=-1)
        assert np.all(hidden.sum(1) <= 0.4 * FRAMES + 1)
        np.testing.assert_array_equal(found[~hidden], np.asarray(batch["logmel"])[~hidden])
        found = np.asarray(augmented(batch, seed, band_masks=1, band_mask_share=0.4)["logmel"])[1]
        hidden = np.all(found == np.asarray(MEAN), axis=0)
        assert hidden.sum() <= 0.4 * BANDS + 1


def test_mixup_is_the_mixture_of_two_clips_and_its_loss_of_two_losses(batch):
    key = jax.random.key(4)
    found = augment.mixup(key, batch, MEAN, concentration=0.7)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(len(FRAMES), CLASSES)), jnp.float32)
    pair, share = jax.random.split(key)
    partner = np.asarray(jax.random.permutation(pair, len(FRAMES)))
    share = np.asarray(jax.random.beta(share, 0.7, 0.7, (len(FRAMES),)))
    share = np.maximum(share, 1 - share)
    weight = np.asarray(batch["weight"])
    share = np.where((weight > 0) & (weight[partner] > 0), share, 1)
    each = -np.asarray(jax.nn.log_softmax(logits))
    label = np.asarray(batch["label"])
    rows = np.arange(len(FRAMES))
    expected = share * weight * each[rows, label] + (1 - share) * weight[partner] * each[rows, label[partner]]
    total = share * weight + (1 - share) * weight[partner]
    loss = losses.cross_entropy(logits, found["target"], found["weight"])
    assert float(loss) == pytest.approx(expected.sum() / total.sum(), rel=1e-5)
    assert found["weight"][-1] == 0 and np.array_equal(found["logmel"][-1], batch["logmel"][-1])
    mixed = share < 1
    assert mixed.sum() >= 3
    np.testing.assert_array_equal(
        found["frames"], np.where(mixed, np.maximum(FRAMES, FRAMES[partner]), FRAMES)
    )
    row = int(np.argmax(mixed & (FRAMES[partner] != FRAMES)))
    ends = sorted((FRAMES[row], FRAMES[partner[row]]))
    x = np.where(np.arange(WIDTH)[:, None] < FRAMES[:, None, None], batch["logmel"], MEAN)
    both = share[row] * x[row] + (1 - share[row]) * x[partner[row]]
    np.testing.assert_allclose(np.asarray(found["logmel"])[row, : ends[1]], both[: ends[1]], rtol=1e-4)


def test_words_alone_are_left_as_they_are():
    batch = {"tokens": jnp.ones((2, 3), jnp.int32), "n_tokens": jnp.array([3, 2]), "label": jnp.array([0, 1])}
    assert Augmentation(**STRENGTHS)(jax.random.key(0), batch, None) == batch


@pytest.fixture(scope="module")
def trained():
    recipe, state, dataset, _ = setup()
    strong = Augmentation(**STRENGTHS, band_hz=tuple(band_edges_hz(8, 50, 8000)[1:-1].tolist()))
    return dataclasses.replace(recipe, augmentation=strong), state, dataset


def test_training_with_everything_on_is_finite_resumable_and_differs_from_without(trained):
    def run(epochs, *parts):
        recipe, state, dataset, _ = setup()
        for epochs in parts:
            state = train.fit(strong, state, dataset, epochs=epochs, after_epoch=lambda *_: None)
        return jax.tree.leaves(state.params)

    strong = trained[0]
    whole, halves = run(2, 2), run(2, 1, 2)
    assert all(np.array_equal(a, b) for a, b in zip(whole, halves, strict=True))
    assert all(np.isfinite(a).all() for a in whole)


def test_mixup_of_a_model_of_sound_and_words_is_refused():
    from configs import tiny

    config = tiny.get_config()
    config.model.text, config.augment.mixup = "gru", 0.2
    with pytest.raises(UserError, match=r"augment\.mixup"):
        experiment.augmentation_of(config)
