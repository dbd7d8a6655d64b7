"""Scores of clips: from the averaged weights, and every row of a clip counts the same."""

import dataclasses

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import setup

from emoflax.training.scoring import mean_over_rows, score
from emoflax.training.step import Weights


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_log_probabilities_of_a_clip_are_the_normalised_mean_over_its_rows(rows, seed):
    rng = np.random.default_rng(seed)
    clip = rng.permutation(np.repeat(np.arange(len(rows)), rows))
    log_p = np.log(rng.dirichlet(np.ones(3), len(clip)))
    for number, ours in enumerate(mean_over_rows(log_p, clip)):
        geometric_mean = np.exp(log_p[clip == number].mean(0))
        np.testing.assert_allclose(np.exp(ours), geometric_mean / geometric_mean.sum(), rtol=1e-9)


def test_a_model_that_keeps_an_average_of_its_weights_is_scored_by_the_average():
    config, state, dataset, _ = setup(ema=0.9)
    state = dataclasses.replace(state, average=jax.tree.map(lambda p: 2 * p + 0.1, state.params))
    weights = [Weights(params, state.statistics) for params in (state.average, state.params)]
    by_average, by_last = (score(config.model, each, dataset) for each in weights)
    np.testing.assert_array_equal(score(config.model, state, dataset), by_average)
    assert not np.allclose(by_average, by_last, atol=1e-2)
