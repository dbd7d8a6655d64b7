"""A temperature makes confidences fit and changes no prediction; thresholds keep what is right often enough."""

import numpy as np
import pytest

from emoflax.reporting import calibration


def drawn(clips=4000, classes=5, sharpness=1.0, seed=0):
    """Log-probabilities whose labels are drawn from them, made `sharpness` times as sure as they should be."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(clips, classes))
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    label = (np.exp(log_p).cumsum(1) < random.uniform(size=(clips, 1))).sum(1).clip(max=classes - 1)
    return calibration.tempered(log_p, 1 / sharpness), label


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_overconfidence_and_underconfidence(sharpness):
    log_p, label = drawn(sharpness=sharpness)
    assert calibration.fit_temperature(log_p, label) == pytest.approx(sharpness, rel=0.08)


def test_the_temperature_carries_over_to_other_clips_and_changes_no_prediction():
    temperature = calibration.fitted(*drawn(sharpness=3.0))["temperature"]
    log_p, label = drawn(sharpness=3.0, seed=1)
    cooler = calibration.tempered(log_p, temperature)
    before, after = calibration.scores(log_p, label), calibration.scores(cooler, label)
    assert before["ece"] > 0.1 and after["ece"] < 0.03 and after["nll"] < before["nll"]
    assert (cooler.argmax(1) == log_p.argmax(1)).all() and np.allclose(np.exp(cooler).sum(1), 1)


def test_with_several_corpora_the_temperature_is_that_of_the_corpus_on_which_the_model_is_most_overconfident():
    (near, near_label), (far, far_label) = drawn(3000, seed=1), drawn(1000, sharpness=3.0, seed=2)
    log_p, label = np.concatenate([near, far]), np.concatenate([near_label, far_label])
    corpus = np.repeat(["near", "far"], (3000, 1000))
    found = calibration.fitted(log_p, label, corpus)["temperature"]
    assert found == pytest.approx(calibration.fit_temperature(far, far_label), abs=1e-3)
    assert found > 1.2 * calibration.fitted(log_p, label)["temperature"]


def test_scores_by_hand():
    log_p = np.log([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
    found = calibration.scores(log_p, np.array([0, 1, 1]))
    assert found["ece"] == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.7 - 1)) / 3)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.1, 0.7]).mean())
    assert found["brier"] == pytest.approx((2 * 0.1**2 + 2 * 0.9**2 + 2 * 0.3**2) / 3)


@pytest.mark.parametrize("clips", [240, 1440])
def test_the_error_by_chance_is_what_perfect_probabilities_have(clips):
    found = [calibration.scores(*drawn(clips, seed=seed)) for seed in range(20)]
    ece, by_chance = (np.mean([each[name] for each in found]) for name in ("ece", "ece_by_chance"))
    assert by_chance == pytest.approx(ece, rel=0.15) and by_chance > 0.01


@pytest.mark.parametrize("wanted", [0.6, 0.8, 0.9])
def test_what_is_not_unsure_is_right_as_often_as_wanted_also_on_other_clips(wanted):
    kept = calibration.fitted(*drawn())
    log_p, label = drawn(seed=2)
    sure = np.exp(log_p.max(1)) >= calibration.threshold(kept, wanted)
    assert (log_p.argmax(1) == label)[sure].mean() > wanted - 0.03 and sure.mean() > 0.1


def test_without_a_wish_or_without_dev_clips_nothing_is_unsure_and_without_hope_everything():
    kept = calibration.fitted(*drawn())
    assert calibration.threshold(kept, 0.0) == calibration.threshold(None, 0.9) == 0
    hopeless = calibration.fitted(np.log(np.full((10, 2), 0.5)), np.ones(10, int))
    assert calibration.threshold(hopeless, 0.9) > 1


def test_a_checkpoint_without_a_temperature_has_temperature_1():
    assert calibration.temperature_of({}) == calibration.temperature_of({"calibration": None}) == 1
