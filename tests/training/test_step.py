"""One step: which rows and weights count in it, where its randomness comes from, and what it averages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import CLASSES, equal, setup

from emoflax.training.step import augmented, train_step

FIELDS = {"model.dropout": 0.5, "train.label_smoothing": 0.3, "augment.gain_db": 6.0}
EMA = 0.3  # reached after three steps
step = jax.jit(train_step, static_argnums=0)


@pytest.fixture(scope="module")
def setting():
    """What is compiled for, a first state, and a batch whose last row is padding."""
    config, state, dataset, _ = setup(ema=EMA, fields=FIELDS)
    batch = jax.tree.map(lambda rows: rows[:5], dataset.buckets[0].rows)
    return config.step, state, batch.replace(weight=jnp.asarray([1, 2, 0.5, 1, 0], jnp.float32))


def test_what_padding_rows_hold_changes_nothing_and_what_others_hold_does(setting):
    config, state, batch = setting

    def moments(batch):  # the weights do not move yet: the learning rate rises from 0
        return step(config, state, batch)[0].opt_state

    def with_another(row):
        label = batch.label.at[row].set((batch.label[row] + 1) % CLASSES)
        return batch.replace(label=label, logmel=batch.logmel.at[row].multiply(-1.0))

    before = moments(batch)
    assert equal(moments(with_another(4)), before)
    assert not any(equal(moments(with_another(row)), before) for row in range(4))


def test_the_loss_is_the_mean_over_rows_by_their_weights(setting):
    config, state, batch = setting

    def loss(weight):
        return float(step(config, state, batch.replace(weight=jnp.asarray(weight, jnp.float32)))[1]["loss"])

    alone = [loss(np.eye(5)[row]) for row in range(5)]
    assert np.ptp(alone) > 0.01
    assert loss(batch.weight) == pytest.approx(np.average(alone, weights=batch.weight), rel=1e-5)


def test_randomness_is_a_function_of_the_seed_and_the_number_of_the_step(setting):
    config, state, batch = setting

    def loss(seed, number):
        at = dataclasses.replace(state, seed=jnp.uint32(seed), step=jnp.int32(number))
        return float(step(config, at, batch)[1]["loss"])

    assert loss(1, 2) == loss(1, 2)
    assert len({loss(seed, number) for seed in range(3) for number in range(3)}) == 9


def test_the_loss_takes_smoothed_labels_and_augmented_log_mels(setting):
    config, state, batch = setting
    made = augmented(config, state, batch, jax.random.key(0))
    np.testing.assert_allclose(made.target, 0.7 * np.eye(CLASSES)[batch.label] + 0.3 / CLASSES, rtol=1e-5)
    gain_db = np.asarray(made.logmel - batch.logmel)[:, 0, 0]
    assert len(np.unique(gain_db)) == 5 and np.abs(gain_db).min() > 0 and np.abs(gain_db).max() < 6.01


def test_the_average_follows_closely_at_first_and_by_its_decay_later(setting):
    config, state, batch = setting
    average = state.average
    for number in range(6):
        state, _ = step(config, state, batch)
        decay = min(EMA, (1 + number) / (10 + number))
        average = jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, average, state.params)
    jax.tree.map(
        lambda ours, plain: np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-7), state.average, average
    )
    assert not equal(state.average, state.params)
