"""From a sequence to one vector per clip: only valid steps count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax.errors import UserError
from emoflax.masks import masked_softmax, valid
from emoflax.models import POOLINGS
from emoflax.models.pooling import AttentiveStatistics

WIDTH, STEPS = 6, 11
SETTINGS = {"attention": {"heads": 3, "hidden": 5}}


def build(name):
    return POOLINGS[name](WIDTH, **SETTINGS.get(name, {}), dtype=jnp.float32, rngs=nnx.Rngs(0))


def sequences(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0, 3, (len(lengths), STEPS, WIDTH)), jnp.float32), jnp.asarray(lengths)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_padded_batch_gives_the_same_vectors_as_each_clip_alone(name):
    pooling = build(name)
    pool = jax.jit(pooling)

    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.sampled_from([0, 1, 2, 7, 11]), min_size=3, max_size=3), st.integers(0, 99))
    def holds(lengths, seed):
        x, length = sequences(lengths, seed)
        together = pool(x, valid(length, STEPS))
        assert together.shape == (3, pooling.width)
        for i, n in enumerate(lengths):
            if n:
                alone = pool(x[i : i + 1, :n], jnp.ones((1, n), bool))[0]
                np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)
            else:
                assert not np.asarray(together[i]).any()

    holds()


@pytest.mark.parametrize("name", POOLINGS)
def test_a_clip_without_a_step_gives_zeros_and_finite_gradients(name):
    graph, params, rest = nnx.split(build(name), nnx.Param, ...)
    x, length = sequences([0, 4])
    x = x.at[0].set(1e4)  # beyond the clip's end

    @jax.jit
    def total(params, x):
        pooled = nnx.merge(graph, params, rest, copy=True)(x, valid(length, STEPS))
        return jnp.sum(jnp.sin(pooled)), pooled

    gradients, pooled = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
    assert not np.asarray(pooled[0]).any() and np.isfinite(pooled).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not np.asarray(gradients[1][0]).any() and np.asarray(gradients[1][1, :4]).any()


def test_attention_weights_of_a_head_add_up_to_one_over_the_valid_steps():
    x, length = sequences([0, 1, 5, 11])
    weights = np.asarray(build("attention").weights(x, valid(length, STEPS)))
    assert weights.shape == (4, STEPS, 3)
    np.testing.assert_allclose(weights.sum(1), np.array([0, 1, 1, 1])[:, None].repeat(3, 1), rtol=1e-5)
    assert not weights[~np.asarray(valid(length, STEPS))].any()


def test_each_head_weighs_its_own_share_of_the_width_by_mean_and_deviation():
    pooling = build("attention")
    x, length = sequences([7])
    weights, share = np.asarray(pooling.weights(x, valid(length, STEPS)))[0, :, 1], np.asarray(x)[0, :, 2:4]
    mean = weights @ share
    std = np.sqrt(weights @ (share - mean) ** 2)
    np.testing.assert_allclose(pooling(x, valid(length, STEPS))[0, 4:8], [*mean, *std], rtol=1e-4)


def test_a_constant_sequence_has_no_deviation_however_large_it_is():
    pooled = build("attention")(jnp.full((1, STEPS, WIDTH), 1e4), jnp.ones((1, STEPS), bool))
    np.testing.assert_allclose(pooled.reshape(3, 2, 2)[:, 1], 0, atol=0.02)


def test_a_softmax_over_nothing_is_zero():
    weights = masked_softmax(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[True, False], [False, False]]), axis=1)
    np.testing.assert_array_equal(weights, [[1, 0], [0, 0]])


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"attention.heads=4 must divide 6"):
        AttentiveStatistics(WIDTH, heads=4, hidden=5, rngs=nnx.Rngs(0))
