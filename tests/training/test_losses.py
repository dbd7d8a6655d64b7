"""The supervised contrastive loss, alone and in a step. (Cross-entropy: test_train.py.)"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_train import setup

from emoflax.errors import UserError
from emoflax.training.losses import supervised_contrastive
from emoflax.training.step import train_step

LABEL = np.array([0, 1, 0, 2, 1, 0, 1])
WEIGHT = np.array([1, 2, 0.5, 1, 0, 3, 1], np.float32)  # the fifth is padding; the fourth is alone with its label


def vectors(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(7, 5)), jnp.float32)


def as_written(vectors, label, weight, temperature):
    """Equation 2 of the paper, clip by clip."""
    z = np.asarray(vectors, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    total = weights = 0.0
    for i in np.flatnonzero(weight):
        others = [a for a in np.flatnonzero(weight) if a != i]
        alike = [p for p in others if label[p] == label[i]]
        if alike:
            below = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
            total += weight[i] * -np.mean([np.log(np.exp(z[i] @ z[p] / temperature) / below) for p in alike])
            weights += weight[i]
    return total / weights


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_is_the_paper_s_equation_of_the_rows_that_count(temperature):
    found = supervised_contrastive(vectors(), jnp.asarray(LABEL), jnp.asarray(WEIGHT), temperature)
    assert float(found) == pytest.approx(as_written(vectors(), LABEL, WEIGHT, temperature), rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient_and_gradients_stay_finite():
    z, label, weight = vectors(), jnp.asarray(LABEL), jnp.asarray(WEIGHT)
    loss, gradient = jax.value_and_grad(supervised_contrastive)(z, label, weight, 0.1)
    other = supervised_contrastive(z.at[4].set(99.0), label.at[4].set(0), weight, 0.1)
    assert float(loss) == float(other) > 0
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[4].any() and np.asarray(gradient)[0].any()
    for alone in (weight * 0, weight * (np.arange(7) == 3)):  # nobody, and nobody to compare with
        loss, gradient = jax.value_and_grad(supervised_contrastive)(z * 0, label, alone, 0.1)
        assert float(loss) == 0 and not np.asarray(gradient).any()


def test_training_with_it_draws_the_clips_of_a_label_together_and_off_it_leaves_no_trace():
    train_config, state, dataset, _ = setup(epochs=5, fields={"train.contrastive": 5.0})
    batch = jax.tree.map(lambda rows: rows[:16], dataset.buckets[0].rows)
    step = jax.jit(train_step, static_argnums=0)

    @jax.jit
    def contrast(params):
        _, vectors = nnx.merge(train_config.model, params, state.statistics, copy=True).compared(batch, None)
        return supervised_contrastive(vectors, batch.label, batch.weight, 0.1)

    before = contrast(state.params)
    for _ in range(20):
        state, _ = step(train_config.step, state, batch)
    assert contrast(state.params) < before - 0.3
    assert "projection" in state.params and "projection" not in setup()[1].params


def test_with_mixup_it_is_refused():
    with pytest.raises(UserError, match="config.train.contrastive"):
        setup(fields={"train.contrastive": 0.5, "augment.mixup": 0.2})


def test_the_contrastive_loss_is_added_by_its_weight():
    config, state, dataset, _ = setup(fields={"train.contrastive": 1.0})
    batch = jax.tree.map(lambda rows: rows[:16], dataset.buckets[0].rows)
    step = jax.jit(train_step, static_argnums=0)

    def loss(weight):
        numbers = dataclasses.replace(state.numbers, contrastive=jnp.float32(weight))
        return float(step(config.step, dataclasses.replace(state, numbers=numbers), batch)[1]["loss"])

    once, twice, four_times = loss(1), loss(2), loss(4)
    assert twice - once > 0.1 and four_times - twice == pytest.approx(2 * (twice - once), rel=1e-4)
