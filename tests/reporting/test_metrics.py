"""Scores against scikit-learn, and intervals against what they must mean."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax.reporting import metrics


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 200), st.integers(0, 2**31))
def test_scores_equal_scikit_learn(classes, clips, seed):
    rng = np.random.default_rng(seed)
    label, predicted = rng.integers(0, classes, (2, clips))
    ours = metrics.scores(metrics.confusion(label, predicted, classes))
    present = np.unique(label)
    recalls = sklearn.metrics.recall_score(label, predicted, average=None, labels=present, zero_division=0)
    f1 = sklearn.metrics.f1_score(label, predicted, average=None, labels=present, zero_division=0)
    assert ours["accuracy"] == pytest.approx(np.mean(label == predicted))
    assert ours["uar"] == pytest.approx(recalls.mean())
    assert ours["macro_f1"] == pytest.approx(f1.mean())
    assert ours["weighted_f1"] == pytest.approx(
        sklearn.metrics.f1_score(label, predicted, average="weighted", zero_division=0)
    )


def test_confusions_of_disjoint_clips_add_up():
    rng = np.random.default_rng(1)
    label, predicted, speaker = rng.integers(0, 5, (3, 401))
    parts = metrics.speaker_confusions(label, predicted, speaker, 5)
    assert np.array_equal(parts.sum(0), metrics.confusion(label, predicted, 5))


def test_the_interval_holds_the_mean_and_shrinks_with_more_speakers():
    rng = np.random.default_rng(2)

    def width(speakers):
        label = rng.integers(0, 4, 40 * speakers)
        skill = np.repeat(rng.uniform(0.2, 0.9, speakers), 40)  # speakers differ, as people do
        predicted = np.where(rng.random(len(label)) < skill, label, rng.integers(0, 4, len(label)))
        parts = metrics.speaker_confusions(label, predicted, np.repeat(np.arange(speakers), 40), 4)
        uar = metrics.summarise(parts[None])["uar"]
        assert uar["low"] < uar["mean"] < uar["high"]
        return uar["high"] - uar["low"]

    assert width(100) < width(8)


def test_about_19_of_20_intervals_hold_the_truth():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        skill = np.repeat(rng.uniform(0.3, 0.9, 24), 20)
        label = rng.integers(0, 2, len(skill))
        predicted = np.where(rng.random(len(label)) < skill, label, 1 - label)
        parts = metrics.speaker_confusions(label, predicted, np.repeat(np.arange(24), 20), 2)
        accuracy = metrics.summarise(parts[None])["accuracy"]
        hits += accuracy["low"] <= 0.6 <= accuracy["high"]
    assert 86 <= hits <= 100


def test_one_speaker_gives_no_interval():
    parts = metrics.speaker_confusions(np.array([0, 1]), np.array([0, 0]), np.array(["a", "a"]), 2)
    summary = metrics.summarise(parts[None])
    assert summary["uar"]["mean"] == 0.5
    assert summary["uar"]["low"] is None and summary["recall"]["high"] == [None, None]


def test_shares_of_the_confusion_matrix_add_up_to_one_and_their_diagonal_is_recall():
    rng = np.random.default_rng(4)
    label, predicted, speaker = rng.integers(0, 4, (3, 300))
    summary = metrics.summarise(metrics.speaker_confusions(label, predicted, speaker, 4)[None])
    shares = np.array(summary["confusion"]["mean"], float)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(np.diagonal(shares), np.array(summary["recall"]["mean"], float))
    assert (np.array(summary["confusion"]["low"]) <= shares).all()
    assert (shares <= np.array(summary["confusion"]["high"])).all()


def test_a_class_without_clips_is_left_out_of_uar_and_has_no_recall():
    parts = metrics.speaker_confusions(np.array([0, 1, 1]), np.array([0, 1, 2]), np.array(["a", "a", "b"]), 3)
    summary = metrics.summarise(parts[None])
    assert summary["uar"]["mean"] == pytest.approx(0.75)
    assert summary["recall"]["mean"] == [1.0, 0.5, None]
