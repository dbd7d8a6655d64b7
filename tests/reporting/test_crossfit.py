"""A temperature of clips that chose their epoch is too low; each clip's epoch is chosen by the others."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from emoflax.reporting import calibration, metrics
from emoflax.reporting.crossfit import CrossFitted, groups

CLASSES, EPOCHS = 4, 30


def training(seed, speakers=4, clips=40):
    """Log-probabilities [epochs, clips, classes], labels and speakers of epochs that are equally good.

    In each epoch other speakers do well, by chance.
    """
    random = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(speakers), clips)
    label = random.choice(CLASSES, size=len(speaker), p=[0.4, 0.3, 0.2, 0.1])
    right = 1 + 0.5 * random.normal(size=(EPOCHS, speakers, 1))[:, speaker]
    logits = 2 * (right * np.eye(CLASSES)[label] + random.normal(size=(EPOCHS, len(speaker), CLASSES)))
    return logits - np.logaddexp.reduce(logits, axis=2, keepdims=True), label, speaker


def score_of(log_p, label, metric="uar"):
    return float(metrics.scores(metrics.confusion(label, log_p.argmax(1), log_p.shape[1]))[metric])


def best_of(log_p, label, metric="uar"):
    """The latest of the epochs with the highest score."""
    return max(range(len(log_p)), key=lambda epoch: (score_of(log_p[epoch], label, metric), epoch))


def after_all(log_p, label, group, metric="uar"):
    made = CrossFitted.before_training(group, log_p.shape[2])
    for of_epoch in log_p:
        made = made.after(of_epoch, label, metric)
    return made


def test_the_temperature_of_clips_that_chose_the_epoch_is_too_low_and_the_cross_fitted_one_is_that_of_new_clips():
    seen = {"same": [], "cross_fitted": [], "new": []}
    for seed in range(60):
        log_p, label, speaker = training(seed, speakers=10)
        dev = speaker < 5
        best = best_of(log_p[:, dev], label[dev])
        cross_fitted = after_all(log_p[:, dev], label[dev], groups(speaker[dev], label[dev])).log_p_NxC
        seen["same"].append((log_p[best, dev], label[dev]))
        seen["cross_fitted"].append((cross_fitted, label[dev]))
        seen["new"].append((log_p[best, ~dev], label[~dev]))
    fitted = {name: calibration.fit_temperature(*map(np.concatenate, zip(*each, strict=True)))
              for name, each in seen.items()}  # fmt: skip
    assert fitted["same"] < 0.8 * fitted["new"]
    assert fitted["cross_fitted"] == pytest.approx(fitted["new"], rel=0.08)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_every_group_has_the_log_probabilities_of_the_epoch_that_all_other_clips_like_best(metric):
    log_p, label, speaker = training(0)
    made = after_all(log_p, label, speaker, metric)
    chosen = [best_of(log_p[:, speaker != one], label[speaker != one], metric) for one in range(4)]
    assert len(set(chosen)) > 1
    for one, epoch in enumerate(chosen):
        assert np.array_equal(made.log_p_NxC[speaker == one], log_p[epoch, speaker == one])


@hypothesis.given(seed=st.integers(0, 99), one=st.integers(0, 3))
@hypothesis.settings(max_examples=20, deadline=None)
def test_a_group_has_no_say_in_its_own_epoch(seed, one):
    log_p, label, speaker = training(seed, clips=10)
    own, other = speaker == one, log_p.copy()
    other[:, own] = np.random.default_rng(seed).permuted(log_p[:, own], axis=2)  # it does well in other epochs
    taken = [
        (after_all(each, label, speaker).log_p_NxC == each)[:, own].all((1, 2)).argmax() for each in (log_p, other)
    ]
    assert taken[0] == taken[1]


def test_of_one_epoch_the_fit_is_the_plain_one():
    log_p, label, speaker = training(0)
    made = after_all(log_p[:1], label, groups(speaker, label))
    assert calibration.fitted(made.log_p_NxC, label) == calibration.fitted(log_p[0], label)


def test_a_single_clip_has_the_last_epoch():
    log_p, label, speaker = training(0)
    made = after_all(log_p[:, :1], label[:1], groups(speaker[:1], label[:1]))
    assert np.array_equal(made.log_p_NxC, log_p[-1, :1])


@pytest.mark.parametrize("epoch", [1, 7, EPOCHS - 1])
def test_saved_after_any_epoch_and_restored_it_goes_on_bit_for_bit(epoch):
    log_p, label, speaker = training(1)
    made = after_all(log_p[:epoch], label, speaker)
    again = CrossFitted.restored(json.loads(json.dumps(made.saved())))
    for of_epoch in log_p[epoch:]:
        again = again.after(of_epoch, label, "uar")
    assert again.saved() == after_all(log_p, label, speaker).saved()


@hypothesis.given(st.lists(st.integers(1, 30), min_size=2, max_size=40))
@hypothesis.settings(deadline=None)
def test_groups_are_at_most_eight_of_whole_speakers_and_leave_the_others_clips_to_choose(clips):
    hypothesis.assume(max(clips) <= sum(clips) / 2)
    speaker = np.random.default_rng(0).permutation(np.repeat([f"s{n}" for n in range(len(clips))], clips))
    group = groups(speaker, np.zeros(len(speaker), int))
    sizes = np.bincount(group)
    assert len(sizes) == min(8, len(clips)) and sizes.min() > 0
    assert all(len(set(group[speaker == one])) == 1 for one in set(speaker))
    assert sizes.max() - sizes.min() <= max(clips)


@pytest.mark.parametrize("others", [0, 10])
def test_where_one_speaker_has_most_clips_every_label_is_spread_over_the_groups(others):
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 16))
    group = groups(np.array(["x"] * (80 - others) + ["y"] * others), label)
    counts = np.array([np.bincount(group[label == one], minlength=8) for one in range(5)])
    assert (counts == 2).all() and counts.shape == (5, 8)
