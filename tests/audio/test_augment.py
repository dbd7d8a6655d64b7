"""What each augmentation of log-mels promises, alone and in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import setup

from emoflax.audio import augment
from emoflax.audio.augment import Augmentation
from emoflax.audio.frontend import band_edges_hz
from emoflax.batch import Batch
from emoflax.errors import UserError
from emoflax.experiment.train_config import augmentation_of
from emoflax.training import loop as train
from emoflax.training import losses

CLASSES, BANDS, WIDTH = 5, 13, 41
FRAMES = np.array([7, 41, 23, 30, 1, 19, 38, 0], np.int32)
MEAN = np.linspace(-40, -20, BANDS, dtype=np.float32)
BAND_HZ = tuple(band_edges_hz(BANDS, 50, 8000)[1:-1].tolist())
STRENGTHS = {
    "crop": 0.3, "stretch": 0.3, "vtlp": 0.2, "shift_bands": 2.0, "tilt_db": 9.0, "gain_db": 9.0, "noise": 1.0,
    "mixup": 0.8, "time_masks": 2, "band_masks": 2, "band_limit": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(3)
    logmel = rng.normal(-30, 10, (len(FRAMES), WIDTH, BANDS)).astype(np.float32)
    logmel[np.arange(WIDTH) >= FRAMES[:, None]] = 0
    label = jnp.asarray(rng.integers(0, CLASSES, len(FRAMES)))
    weight = jnp.asarray([1, 2, 0.5, 1, 1, 3, 0, 0], jnp.float32)
    target = losses.targets(label, CLASSES)
    return jax.tree.map(jnp.asarray, Batch(label, weight, logmel=logmel, frames=FRAMES, target=target))


def augmented(batch, *seeds, **strengths):
    """[seeds, batch, ...], as numpy arrays."""
    program = Augmentation(**strengths, band_hz=BAND_HZ)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(program, (0, None, None)))(keys, batch, jnp.asarray(MEAN)))


def uniform(*shape):
    return jnp.asarray(np.random.default_rng(0).uniform(size=shape), jnp.float32)


def test_off_is_the_identity(batch):
    found = Augmentation()(jax.random.key(0), batch, jnp.asarray(MEAN))
    jax.tree.map(np.testing.assert_array_equal, found, batch)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_is_a_function_of_its_key_and_changes_only_what_it_may(batch, name):
    found = augmented(batch, 0, 0, 1, **{name: STRENGTHS[name]})
    assert all(np.array_equal(values[0], values[1]) for values in jax.tree.leaves(found))
    assert not np.array_equal(found.logmel[0], found.logmel[2])
    assert not np.array_equal(found.logmel[0], batch.logmel)
    may = {"logmel"} | ({"frames"} if name in ("crop", "stretch", "mixup") else set())
    may |= {"target", "weight"} if name == "mixup" else set()
    before, after = batch.arrays(), found.arrays()
    assert all(np.array_equal(after[field][2], before[field]) for field in before if field not in may)
    assert not found.logmel[np.arange(WIDTH) >= found.frames[..., None]].any()
    assert np.isfinite(found.logmel).all()
    np.testing.assert_allclose(found.target.sum(-1), 1, rtol=1e-5)


def test_switching_one_on_leaves_the_draws_of_the_others(batch):
    masked, louder = (augmented(batch, 0, time_masks=2, gain_db=gain).logmel for gain in (0.0, 5.0))
    np.testing.assert_array_equal(*(np.all(logmel == MEAN, axis=-1) for logmel in (masked, louder)))


def test_a_clip_keeps_its_place_and_a_silent_one_its_silence(batch):
    found = augmented(batch, 0, 1, **{name: s for name, s in STRENGTHS.items() if name != "mixup"})
    assert np.all((found.frames > 0) == (FRAMES > 0)) and np.all(found.frames <= WIDTH)
    assert not found.logmel[:, FRAMES == 0].any()


def test_stretch_reads_time_at_the_drawn_rate_and_crop_starts_later():
    x, frames = jnp.broadcast_to(jnp.arange(60.0)[None, :, None], (3, 60, 2)), jnp.array([40, 40, 40])
    u = jnp.asarray([[0, 0, 0], [0.5, 0, 1], [1, 0.5, 0.5]], jnp.float32)
    found, lengths = augment.warp_time(u, x, frames, crop=0.2, stretch=0.25)
    # Slowest, whole; fastest, 4 of 40 frames cut at the end; 8 of 40 cut, 4 of them at the beginning.
    np.testing.assert_array_equal(lengths, [50, round(36 / 1.25), 32])
    for row, (start, rate, n) in enumerate([(0, 0.8, 48), (0, 1.25, 29), (4, 1.0, 32)]):
        np.testing.assert_allclose(found[row, :n, 0], start + rate * np.arange(n), atol=1e-4)


def test_what_is_stretched_beyond_the_padded_width_is_cut():
    x = jnp.broadcast_to(jnp.arange(10.0)[None, :, None], (1, 10, 1))
    found, lengths = augment.warp_time(jnp.zeros((1, 3)), x, jnp.array([10]), crop=0.0, stretch=1.0)
    np.testing.assert_allclose(found[0, :, 0], np.arange(10) / 2)
    assert lengths == 10


def test_frames_are_read_as_by_a_product_with_the_weights_of_linear_interpolation():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(-30, 10, (3, 50, 7)), jnp.float32)
    places = rng.uniform(0, 49, (3, 80))
    places[:, :3] = 0, 17, 49  # both ends, and a frame itself
    places = jnp.asarray(places, jnp.float32)
    expected = jnp.einsum("bts,bsf->btf", augment.interpolation(places, 50), x, precision="highest")
    np.testing.assert_allclose(augment._read_frames(x, places), expected, rtol=1e-5, atol=1e-5)


def test_vtlp_moves_formants_by_the_drawn_factor_and_keeps_the_highest_band():
    hz = band_edges_hz(64, 50, 8000)[1:-1]
    places = augment.vtlp_places(jnp.asarray([[0.0], [0.5], [1.0]]), tuple(hz.tolist()), 0.25)
    read_hz = np.stack([np.interp(place, np.arange(64), hz) for place in np.asarray(places)])
    middle = slice(8, 40)
    np.testing.assert_allclose(read_hz[0, middle] / hz[middle], 0.8, rtol=1e-3)
    np.testing.assert_allclose(read_hz[1], hz, rtol=1e-4)
    np.testing.assert_allclose(read_hz[2, middle] / hz[middle], 1.25, rtol=1e-3)
    np.testing.assert_allclose(read_hz[:, -1], hz[-1], rtol=1e-4)
    assert np.all(np.diff(read_hz) > -1e-2)


def test_the_shift_moves_all_bands_alike():
    x = jnp.broadcast_to(jnp.arange(20.0)[None, None], (2, 1, 20))
    found = augment.move_bands(x, augment.shifted_places(jnp.asarray([[0.0], [0.75]]), 20, 3.0))[:, 0]
    np.testing.assert_allclose(found, np.clip(np.arange(20) + np.array([[-3], [1.5]]), 0, 19), atol=1e-5)


def test_gain_and_tilt_are_a_straight_line_over_the_bands_in_db_whatever_the_unit(batch):
    added = augment.level_db(jnp.asarray([[1.0, 0.5], [0.5, 0.0]]), BANDS, 6.0, 10.0)[:, 0]
    np.testing.assert_allclose(added, [np.full(BANDS, 6), np.linspace(5, -5, BANDS)], atol=1e-5)
    level = {"gain_db": 6.0, "noise": 1.0, "band_hz": BAND_HZ}
    key, inside = jax.random.key(0), np.arange(WIDTH) < FRAMES[:, None]
    in_db = Augmentation(**level)(key, batch, None).logmel
    in_bel = Augmentation(**level, unit_db=10.0)(key, batch.replace(logmel=batch.logmel / 10), None).logmel
    np.testing.assert_allclose(np.asarray(in_bel)[inside] * 10, np.asarray(in_db)[inside], rtol=1e-4)


def test_noise_comes_to_a_share_of_the_clips_at_the_drawn_ratio_to_their_own_power():
    rng = np.random.default_rng(1)
    x, frames = jnp.asarray(rng.normal(-30, 5, (3, 50, 40)), jnp.float32), jnp.array([50, 30, 50])
    u = jnp.asarray([[0.1, 0.0], [0.1, 0.5], [0.4, 0.0]], jnp.float32)
    found = augment.add_noise(u, jnp.zeros_like(x), x, frames, 0.3, (3.0, 9.0))
    for row, snr_db in ((0, 3), (1, 6)):
        before, after = (10 ** (np.asarray(part, np.float64)[row, : frames[row]] / 10) for part in (x, found))
        assert 10 * np.log10(before.mean() / (after - before).mean()) == pytest.approx(snr_db, abs=0.05)
    np.testing.assert_array_equal(found[1, 30:], x[1, 30:])
    np.testing.assert_array_equal(found[2], x[2])


def test_masks_lie_within_the_clip_and_are_no_wider_than_allowed():
    length = np.array([10, 37, 0, 1])
    u = uniform(2, 4 * 50, 1)
    masked = np.asarray(augment.stretches(u, jnp.asarray(np.tile(length, 50)), 40, 0.4)).reshape(50, 4, 40)
    assert not masked[:, np.arange(40) >= length[:, None]].any()
    widths = masked.sum(-1)
    assert np.all(widths.max(0) <= 0.4 * length + 1) and widths[:, 1].max() >= 12 and widths.min() == 0
    assert np.all((np.diff(masked, axis=-1, prepend=0) > 0).sum(-1) <= 1)


def test_what_is_masked_is_the_training_mean_and_nothing_else_changes(batch):
    found = augmented(batch, 0, time_masks=2, band_masks=1).logmel[0]
    changed = found != np.asarray(batch.logmel)
    assert changed.any() and np.array_equal(found[changed], np.broadcast_to(MEAN, found.shape)[changed])


def test_mixup_is_the_mixture_of_two_clips_and_its_loss_that_of_two_losses(batch):
    u = uniform(len(FRAMES), 2)
    found = jax.tree.map(np.asarray, augment.mixup(u, batch, jnp.asarray(MEAN), 0.7))
    clips, weight, label = np.arange(len(FRAMES)), np.asarray(batch.weight), np.asarray(batch.label)
    partner = (clips + 1 + int(u[0, 0] * (len(FRAMES) - 1))) % len(FRAMES)
    share = augment._larger_share(0.7)[(np.asarray(u[:, 1]) * 1024).astype(int)]
    share = np.where((weight > 0) & (weight[partner] > 0), share, 1)
    mixed = share < 1
    assert mixed.sum() >= 3 and np.all(share >= 0.5)

    logits = jnp.asarray(np.random.default_rng(0).normal(size=(len(FRAMES), CLASSES)), jnp.float32)
    each = -np.asarray(jax.nn.log_softmax(logits))
    own, others = share * weight, (1 - share) * weight[partner]
    expected = (own * each[clips, label] + others * each[clips, label[partner]]).sum() / (own + others).sum()
    loss = losses.cross_entropy(logits, jnp.asarray(found.target), jnp.asarray(found.weight))
    assert float(loss) == pytest.approx(expected, rel=1e-5)

    assert np.array_equal(found.weight[weight == 0], weight[weight == 0])
    assert np.array_equal(found.logmel[~mixed], batch.logmel[~mixed])
    np.testing.assert_array_equal(found.frames, np.where(mixed, np.maximum(FRAMES, FRAMES[partner]), FRAMES))
    filled = np.where((np.arange(WIDTH) < FRAMES[:, None])[..., None], batch.logmel, MEAN)
    both = share[:, None, None] * filled + (1 - share)[:, None, None] * filled[partner]
    inside = (np.arange(WIDTH) < found.frames[:, None]) & mixed[:, None]
    np.testing.assert_allclose(found.logmel[inside], both[inside], rtol=1e-4)


def test_the_drawn_share_follows_beta():
    share = augment._larger_share(0.4)
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 20_000)
    drawn = np.sort(np.maximum(drawn, 1 - drawn))[:: 20_000 // 1000]
    np.testing.assert_allclose(np.quantile(share, np.linspace(0, 1, len(drawn))), drawn, atol=0.02)


def test_words_alone_are_left_as_they_are():
    batch = Batch(tokens=jnp.ones((2, 3), jnp.int32), n_tokens=jnp.array([3, 2]), label=jnp.array([0, 1]))
    assert Augmentation(**STRENGTHS)(jax.random.key(0), batch, None) is batch


def test_mixup_of_a_model_of_sound_and_words_is_refused():
    from emoflax.configs import tiny

    config = tiny.get_config()
    config.model.text, config.augment.mixup = "gru", 0.2
    with pytest.raises(UserError, match=r"augment\.mixup"):
        augmentation_of(config)


def test_a_strength_that_makes_no_sense_is_refused():
    with pytest.raises(UserError, match=r"augment\.crop=-0\.1 must be from 0"):
        Augmentation(crop=-0.1)


@pytest.mark.parametrize("name", STRENGTHS)
def test_strengths_as_arguments_of_a_program_give_the_same_batch(batch, name):
    plain = Augmentation(**{name: STRENGTHS[name]}, band_hz=BAND_HZ)
    program, strengths = augment.program_and_strengths(plain, augment.STRENGTHS)
    arguments = jax.random.key(0), batch, jnp.asarray(MEAN), jnp.ones(len(MEAN))

    @jax.jit
    def augmented(strengths):
        return dataclasses.replace(program, **strengths)(
            jax.random.key(0), batch, jnp.asarray(MEAN), jnp.ones(len(MEAN))
        )

    expected = jax.jit(plain)(*arguments)
    arrays = jax.tree.map(jnp.float32, strengths)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), augmented(arrays), expected)


def test_augmentations_that_differ_in_strength_share_a_program_and_those_that_are_off_do_not():
    programs = [
        augment.program_and_strengths(Augmentation(**fields), augment.STRENGTHS)[0]
        for fields in ({"crop": 0.1, "mixup": 0.2}, {"crop": 0.3, "mixup": 1.0}, {"crop": 0.3})
    ]
    assert programs[0] == programs[1] != programs[2]


def test_training_with_everything_on_is_finite_and_stopped_and_continued_equals_uninterrupted():
    hz = tuple(band_edges_hz(8, 50, 8000)[1:-1].tolist())
    train_config, state, dataset, _ = setup()
    step = dataclasses.replace(train_config.step, augmentation=Augmentation(**STRENGTHS, band_hz=hz))
    train_config = dataclasses.replace(train_config, step=step)

    def run(state, epochs):
        return train.fit(train_config, state, dataset, epochs=epochs, after_epoch=lambda *_: None)

    whole = jax.tree.leaves(run(state, 3).params)
    _, state, _, _ = setup()
    parts = jax.tree.leaves(run(run(state, 1), 3).params)
    assert all(np.array_equal(a, b) and np.isfinite(a).all() for a, b in zip(whole, parts, strict=True))


def test_a_codec_takes_the_bands_above_its_frequency_to_the_floor_and_leaves_the_others():
    x = jnp.asarray(np.random.default_rng(0).uniform(-60, -10, (2, 5, 4)), jnp.float32)
    frames, hz = jnp.array([5, 3]), (500.0, 2_000.0, 5_000.0, 7_000.0)
    limited = np.asarray(augment.limit_bands(jnp.zeros((2, 2)), x, frames, hz, 1.0, (4_000.0, 8_000.0), 80.0))
    np.testing.assert_array_equal(limited[..., :2], x[..., :2])
    for row, length in enumerate((5, 3)):
        np.testing.assert_allclose(limited[row, :length, 2:], np.asarray(x)[row, :length].max() - 80, rtol=1e-6)
    untouched = augment.limit_bands(jnp.full((2, 2), 0.6), x, frames, hz, 0.5, (4_000.0, 8_000.0), 80.0)
    np.testing.assert_array_equal(untouched, x)
