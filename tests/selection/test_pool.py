"""Weights of an ensemble are the likeliest ones, and what is pooled are probabilities."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from emoflax.selection import pool

CLASSES = 4


def answers(rng, models, clips, sureness=1.5):
    """Log-probabilities [models, clips, classes] and labels that they know something of."""
    label = rng.integers(0, CLASSES, clips)
    logits = sureness * np.eye(CLASSES)[label] + rng.normal(size=(models, clips, CLASSES))
    return logits - np.logaddexp.reduce(logits, axis=2, keepdims=True), label


def likelihood(log_p, label, weights):
    return pool.mix(log_p, weights)[np.arange(len(label)), label].mean()


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@hypothesis.settings(max_examples=20, deadline=None)
def test_no_other_weights_make_the_labels_likelier(seed, models):
    rng = np.random.default_rng(seed)
    log_p, label = answers(rng, models, 60)
    found = pool.weights(log_p, label)
    assert found.shape == (models,) and (found >= 0).all()
    best = max(likelihood(log_p, label, weights) for weights in rng.gamma(1.0, 0.7, (300, models)))
    assert likelihood(log_p, label, found) >= best - 0.005  # weights under 1 % are left out


def test_the_pool_of_copies_of_one_model_is_that_model_and_rows_are_probabilities():
    log_p, _ = answers(np.random.default_rng(0), 1, 9)
    np.testing.assert_allclose(pool.mix([log_p[0]] * 3, [0.2, 0.3, 0.5]), log_p[0], atol=1e-12)
    np.testing.assert_allclose(np.exp(pool.mix([log_p[0], 2 * log_p[0]], [0.7, 0.6])).sum(1), 1)


def test_a_model_that_knows_nothing_gets_no_weight():
    rng = np.random.default_rng(1)
    log_p, label = answers(rng, 1, 4000)
    noise = rng.normal(size=log_p.shape)
    noise -= np.logaddexp.reduce(noise, axis=2, keepdims=True)
    noise[0, np.arange(4000), label] -= 0.2  # if anything, the wrong thing
    assert pool.weights(np.concatenate([log_p, noise]), label)[1] == 0


def test_a_model_that_could_only_count_against_another_leaves_the_other_s_weight_as_it_is():
    rng = np.random.default_rng(3)
    label, noise = rng.integers(0, CLASSES, 2000), rng.normal(size=(2000, CLASSES))
    logits = np.stack([1.5 * np.eye(CLASSES)[label] + noise, noise])  # the second has the first one's errors alone
    log_p = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    (alone,), (beside, against) = pool.weights(log_p[:1], label), pool.weights(log_p, label)
    assert against == 0 and beside == pytest.approx(alone, rel=1e-3)


def test_models_that_are_too_unsure_are_made_surer():
    log_p, label = answers(np.random.default_rng(2), 1, 4000, sureness=4.0)
    timid = 0.5 * log_p
    timid -= np.logaddexp.reduce(timid, axis=2, keepdims=True)
    right, made = pool.weights(log_p, label)[0], pool.weights(timid, label)[0]
    assert made == pytest.approx(2 * right, rel=1e-3)


def test_where_no_model_tells_anything_all_count_alike():
    log_p = np.full((2, 10, CLASSES), -np.log(CLASSES))
    worse = log_p + 0.1 * np.eye(CLASSES)[np.arange(10) % CLASSES]
    assert pool.weights(worse, (np.arange(10) + 1) % CLASSES).tolist() == [0.5, 0.5]


def speakers_answers(seed, speakers=6, clips=40):
    """A model that knows something, and one whose answers follow the labels in the odd speaker's way alone."""
    rng = np.random.default_rng(seed)
    log_p, label = answers(rng, 1, speakers * clips)
    speaker = np.repeat([f"s{number}" for number in range(speakers)], clips)
    odd = 0.3 * rng.normal(size=log_p.shape)
    odd[0, speaker == "s0"] += 1.5 * np.eye(CLASSES)[label[speaker == "s0"]]
    odd[0, speaker != "s0"] -= 0.1 * np.eye(CLASSES)[label[speaker != "s0"]]
    return np.concatenate([log_p, odd - np.logaddexp.reduce(odd, axis=2, keepdims=True)]), label, speaker


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_helps_one_speaker_and_none_of_the_others_is_left_out_of_the_pool(seed):
    log_p, label, speaker = speakers_answers(seed)
    assert pool.weights(log_p, label)[1] > 0.05
    weights = pool.sparse_weights(log_p, label, speaker)
    assert weights[1] == 0 and weights[0] == pytest.approx(pool.weights(log_p[:1], label)[0], rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_models_that_know_different_things_all_stay_in_the_pool_in_the_likeliest_proportions(seed):
    log_p, label = answers(np.random.default_rng(seed), 3, 240)
    found, likeliest = pool.sparse_weights(log_p, label, np.repeat(np.arange(6), 40)), pool.weights(log_p, label)
    np.testing.assert_allclose(found / found.sum(), likeliest / likeliest.sum())


def test_an_ensemble_weighed_by_five_speakers_is_on_average_as_sure_of_others_as_it_is_right():
    """Speakers differ in how well each model tells their labels; the likeliest weights are too large for new ones."""

    def too_sure(weigh):
        found = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            log_p, label = answers(rng, 3, 3200, sureness=0.7)
            speaker = np.arange(3200) // 40
            telling = 0.5 * rng.normal(size=(3, 80, 1))[:, speaker] * np.eye(CLASSES)[label]
            log_p = log_p + telling - np.logaddexp.reduce(log_p + telling, axis=2, keepdims=True)
            known, new = slice(200), slice(200, None)
            pooled = pool.mix(log_p[:, new], weigh(log_p[:, known], label[known], speaker[known]))
            found.append(np.exp(pooled.max(1)).mean() - (pooled.argmax(1) == label[new]).mean())
        return np.mean(found)

    assert abs(too_sure(pool.sparse_weights)) < 0.5 * too_sure(lambda log_p, label, _: pool.weights(log_p, label))


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_helps_four_speakers_of_five_and_misleads_one_stays_in_the_pool(seed):
    """What it brings on average is less than a standard error over five speakers."""
    log_p, label = answers(np.random.default_rng(seed), 2, 200)
    misled = np.repeat(np.arange(5), 40) == 0
    log_p[1, misled] -= 2 * np.eye(CLASSES)[label[misled]]
    log_p -= np.logaddexp.reduce(log_p, axis=2, keepdims=True)
    assert (pool.sparse_weights(log_p, label, np.repeat(np.arange(5), 40)) > 0.5).all()


def test_with_one_known_speaker_nobody_can_be_left_out_and_all_models_are_weighed():
    log_p, label = answers(np.random.default_rng(0), 2, 60)
    alone = pool.sparse_weights(log_p, label, np.array([""] * 60))
    np.testing.assert_array_equal(alone, pool.weights(log_p, label))
