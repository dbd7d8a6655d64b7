"""The ridge of the closed-form models: what it is chosen by, and what it predicts with."""

import numpy as np
import pytest
from sklearn import linear_model

from emoflax.models import ridge
from emoflax.models.ridge import Labelled

CLASSES, RIDGES = 3, (0.003, 0.03, 0.3, 3.0)


def clips_of(seed, speakers=6, width=40):
    """Clips of uneven classes; each speaker expresses a class in much the same way each time, and not as others do."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([rng.permutation(np.repeat(np.arange(CLASSES), (6, 3, 2))) for _ in range(speakers)])
    speaker = np.repeat([f"s{number}" for number in range(speakers)], 11)
    shared = 1.2 * rng.normal(size=(CLASSES, width))
    own = 2.0 * rng.normal(size=(speakers, CLASSES, width))
    x = shared[label] + own[np.repeat(np.arange(speakers), 11), label] + rng.normal(size=(len(label), width))
    return x - x.mean(0), label, speaker


def plainly(x, label, speaker):
    """(ridge, UAR, kernel): every speaker is predicted by a fit to the others; the likeliest ridge and temperature."""
    size, target = (x**2).sum(1).mean(), np.eye(CLASSES)[label] - 1 / CLASSES
    weight = len(label) / (CLASSES * np.bincount(label)[label])

    def fit(own, penalty):
        return x[own].T @ np.linalg.solve(x[own] @ x[own].T / size + np.diag(penalty / weight[own]), target[own]) / size

    tried = []
    for penalty in RIDGES:
        scores = np.empty_like(target)
        for name in np.unique(speaker):
            scores[speaker == name] = x[speaker == name] @ fit(speaker != name, penalty)
        recalls = [(scores.argmax(1) == label)[label == c].mean() for c in range(CLASSES)]
        for factor in np.geomspace(0.5, 50, 100):
            log_p = factor * scores - np.log(np.exp(factor * scores).sum(1, keepdims=True))
            likelihood = np.average(log_p[np.arange(len(label)), label], weights=weight)
            tried.append((likelihood, penalty, np.mean(recalls), factor * fit(slice(None), penalty)))
    return max(tried, key=lambda each: each[0])[1:]


@pytest.mark.parametrize("seed", range(4))
def test_ridge_and_temperature_are_those_that_make_labels_of_left_out_speakers_likeliest(seed):
    x, label, speaker = clips_of(seed)
    penalty, uar, kernel = plainly(x, label, speaker)
    ours = ridge.solve(x, Labelled.of(label, CLASSES, speaker), RIDGES)
    assert ours.ridge == penalty and ours.uar == pytest.approx(uar)
    np.testing.assert_allclose(ours.kernel, kernel, rtol=1e-6, atol=1e-9)


def test_clips_of_one_speaker_are_left_out_together_and_clips_of_an_only_speaker_in_five_parts():
    groups = ridge.groups_of(np.array(["b", "a", "b", "c", "b", "a"]))
    assert [group.tolist() for group in groups] == [[1, 5], [0, 2, 4], [3]]
    alone = ridge.groups_of(np.array(["a"] * 12))
    assert sorted(np.concatenate(alone)) == list(range(12)) and len(alone) == 5


@pytest.mark.parametrize("width", [40, 5])
def test_of_many_clips_some_groups_are_left_out_and_predicted_as_if_all_were(width, monkeypatch):
    x, label, speaker = clips_of(4, speakers=8, width=width)
    clips = Labelled.of(label, CLASSES, speaker)
    every = ridge.solve(x, clips, (0.3,)).left_out
    monkeypatch.setattr(ridge, "_GROUPS", 3)
    monkeypatch.setattr(ridge, "_CLIPS", 40)  # of groups of 11
    some = ridge.solve(x, clips, (0.3,)).left_out
    there = np.isfinite(some).all(1)
    assert there.sum() == 44 and len(np.unique(speaker[there])) == 4
    scale = np.abs(some[there]).max() / np.abs(every[there]).max()  # the temperature is that of other clips
    np.testing.assert_allclose(some[there] / scale, every[there], atol=1e-9)


@pytest.mark.parametrize("width", [40, 90])
def test_fewer_features_than_clips_give_what_the_clips_own_matrix_gives(width, monkeypatch):
    x, label, speaker = clips_of(1, width=width)
    corpus = np.where(speaker < "s3", "one", "two")
    clips = Labelled.of(label, CLASSES, speaker, corpus, balance_corpora=True)
    narrow = ridge.solve(x, clips, RIDGES)
    wide = ridge.solve(np.concatenate([x, np.zeros_like(x)], axis=1), clips, RIDGES)  # more features than clips
    assert wide.ridge == narrow.ridge and wide.uar == narrow.uar
    np.testing.assert_allclose(wide.kernel[:width], narrow.kernel, rtol=1e-6, atol=1e-9)
    assert not np.any(wide.kernel[width:])


def test_a_corpus_has_no_say_in_an_emotion_that_it_does_not_have():
    x, label, speaker = clips_of(2)
    other = np.flatnonzero(speaker >= "s3")
    lacks = other[label[other] == 2]  # the second corpus loses a class: its other clips are no examples against it
    kept = np.setdiff1d(np.arange(len(label)), lacks)
    corpus = np.where(speaker < "s3", "one", "two")
    clips = Labelled.of(label[kept], CLASSES, speaker[kept], corpus[kept])
    first = corpus[kept] == "one"
    assert clips.known_NxC[first].all() and clips.known_NxC[~first].tolist() == [[True, True, False]] * int(
        (~first).sum()
    )
    ours = ridge.solve(x[kept], clips, (0.3,))
    changed = x[kept].copy()
    changed[~first] += 1.0  # whatever the second corpus sounds like
    moved = ridge.solve(changed, clips, (0.3,))
    size = [np.square(z).sum(1).mean() for z in (x[kept], changed)]
    columns = [fit.kernel[:, 2] / np.linalg.norm(fit.kernel[:, 2]) for fit in (ours, moved)]
    own = x[kept][first]
    for column, scale in zip(columns, size, strict=True):
        weight = clips.weight_N[first]
        is_it = (label[kept][first] == 2).astype(float)
        target = is_it - np.average(is_it, weights=weight)
        dual = np.linalg.solve(own @ own.T / scale + np.diag(0.3 / weight), target)
        np.testing.assert_allclose(column, own.T @ dual / np.linalg.norm(own.T @ dual), atol=1e-8)


def test_a_class_that_nobody_else_has_is_judged_by_nobody():
    x, label, speaker = clips_of(3)
    kept = np.flatnonzero((label != 2) | (speaker == "s0"))
    clips = Labelled.of(label[kept], CLASSES, speaker[kept], speaker[kept])
    solution = ridge.solve(x[kept], clips, (0.3,))
    own = speaker[kept] == "s0"
    assert np.isneginf(solution.left_out[:, 2]).all() and np.isfinite(solution.left_out[:, :2]).all()
    judged = label[kept] != 2
    assert own.any() and solution.uar == pytest.approx(
        np.mean([(solution.left_out.argmax(1) == c)[judged & (label[kept] == c)].mean() for c in range(2)])
    )


def test_groups_of_whole_corpora_choose_a_stronger_penalty_where_corpora_differ_more_than_speakers():
    rng, label = np.random.default_rng(0), np.tile(np.arange(CLASSES), 40)
    corpus = np.repeat(["one", "two", "three", "four"], 30)
    speaker = np.char.add(corpus, np.tile(np.repeat(["a", "b", "c"], 10), 4))
    own = {name: rng.normal(size=(CLASSES, 60)) for name in np.unique(corpus)}  # how a corpus records each class
    shared = rng.normal(size=(CLASSES, 60))
    x = 0.5 * shared[label] + np.stack([own[c][k] for c, k in zip(corpus, label, strict=True)])
    x = x + 0.3 * rng.normal(size=x.shape)
    x -= x.mean(0)
    by_speaker, by_corpus = (ridge.solve(x, Labelled.of(label, CLASSES, group, corpus), RIDGES)
                             for group in (speaker, corpus))  # fmt: skip
    assert by_corpus.ridge >= by_speaker.ridge and by_corpus.uar < by_speaker.uar
    sharpness = [np.abs(x @ fit.kernel).mean() for fit in (by_speaker, by_corpus)]
    assert sharpness[1] < sharpness[0]  # and probabilities that claim less


@pytest.mark.parametrize("width", [20, 90])
def test_with_clips_that_count_the_same_it_is_the_usual_ridge_regression_with_an_intercept(width):
    x, label, speaker = clips_of(0, width=width)
    ours = ridge.solve(x, Labelled.of(label, CLASSES, speaker, class_weighting=0.0), (0.3,))
    theirs = linear_model.Ridge(0.3 * (x**2).sum(1).mean()).fit(x, np.eye(CLASSES)[label])
    predicted = x @ ours.kernel + ours.bias
    wanted = theirs.predict(x) - theirs.intercept_.mean()
    factor = np.abs(ours.kernel).max() / np.abs(theirs.coef_).max()  # the temperature
    np.testing.assert_allclose(predicted, factor * wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_weigh_as_their_frequency_to_a_power_says_and_corpora_the_same(power):
    label, corpus = np.array([0, 0, 0, 1, 0, 1, 1, 2]), ["a"] * 4 + ["b"] * 4
    alone = Labelled.of(label[:4], 2, np.arange(4), class_weighting=power).weight_N
    assert alone.mean() == pytest.approx(1) and alone[0] / alone[3] == pytest.approx(3**-power)
    both = Labelled.of(label, 3, np.arange(8), corpus, balance_corpora=True, class_weighting=power).weight_N
    assert both[:4].sum() == pytest.approx(both[4:].sum()) and both[5] / both[4] == pytest.approx(2**-power)
