"""The linear probe equals the slow, plain way, and a test speaker has no say in anything but the scores."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import Features
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.selection import probe
from emoflax.selection.probe import Fold

RIDGES = (0.01, 1.0, 30.0)
LAYERS, WIDTH, CLASSES = 3, 7, 3


class Shards:
    """What Features needs of a ShardSet, in memory."""

    def __init__(self, ids, sequences):
        self.ids, self._sequences = tuple(ids), sequences
        self.lengths = np.array([len(sequence) for sequence in sequences])

    def __getitem__(self, row):
        return self._sequences[row]


def corpus(seed, speakers=6, clips=61):
    """Clips of uneven numbers per speaker and class, whose last layer tells most about the class."""
    rng = np.random.default_rng(seed)
    speaker, label = rng.integers(speakers, size=clips), rng.choice(CLASSES, size=clips, p=(0.5, 0.3, 0.2))
    speaker[: speakers * CLASSES], label[: speakers * CLASSES] = np.divmod(np.arange(speakers * CLASSES), CLASSES)
    centres = rng.normal(size=(CLASSES, WIDTH))
    states = rng.normal(size=(LAYERS, clips, WIDTH)) + np.linspace(0, 0.8, LAYERS)[:, None, None] * centres[label]
    return states * rng.uniform(0.1, 10, size=(LAYERS, 1, WIDTH)) + 3, label, speaker


def one_speaker_out(speaker):
    return [Fold(np.flatnonzero(speaker != s), np.flatnonzero(speaker == s)) for s in np.unique(speaker)]


def two_speakers_out_and_one_ignored(speaker):
    tests = [np.flatnonzero((speaker == s) | (speaker == s + 1)) for s in (0, 2)]
    return [Fold(np.setdiff1d(np.flatnonzero(speaker != 5), test), test) for test in tests]


def run(states, label, speaker, folds):
    return probe.probe(lambda layer: states[layer], LAYERS, label, CLASSES, speaker, folds, RIDGES)


def fit_and_predict(features, label, weight, ridge, fitted, held):
    model = RidgeClassifier(alpha=ridge * features.shape[1]).fit(features[fitted], label[fitted], weight[fitted])
    return model.decision_function(features[held])


def uar(label, predicted):
    return np.mean([np.mean(predicted[label == c] == c) for c in np.unique(label)])


def plainly(states, label, speaker, folds):
    """The same choice, each model fitted by scikit-learn to the clips that it may see."""
    choices = []
    half = (len(folds) + 1) // 2
    for number, fold in enumerate(folds):
        others = folds[:half] if number < half else folds[half:]
        shared = [i for i in range(len(label)) if all(i in other.train for other in others)]
        weight = np.array([len(shared) / (CLASSES * np.sum(label[shared] == c)) for c in label])
        best = (-1.0,)
        for ridge in sorted(RIDGES, reverse=True):
            for layer in range(LAYERS):
                features = (states[layer] - states[layer][shared].mean(0)) / states[layer][shared].std(0)
                inner = np.empty(len(label), int)
                for left_out in np.unique(speaker[fold.train]):
                    held = fold.train[speaker[fold.train] == left_out]
                    fitted = fold.train[speaker[fold.train] != left_out]
                    inner[held] = fit_and_predict(features, label, weight, ridge, fitted, held).argmax(1)
                score = uar(label[fold.train], inner[fold.train])
                if score > best[0] + 1e-12:
                    best = (score, layer, ridge, fit_and_predict(features, label, weight, ridge, fold.train, fold.test))
        choices.append(best)
    return choices


@pytest.mark.parametrize("folds_of", [one_speaker_out, two_speakers_out_and_one_ignored])
@pytest.mark.parametrize("seed", range(2))
def test_the_probe_equals_scikit_learns_ridge_classifier_nested_the_plain_way(seed, folds_of):
    states, label, speaker = corpus(seed)
    folds = folds_of(speaker)
    for ours, (score, layer, ridge, scores) in zip(
        run(states, label, speaker, folds), plainly(states, label, speaker, folds), strict=True
    ):
        assert (ours.layer, ours.ridge) == (layer, ridge)
        assert ours.inner_uar.max() == pytest.approx(score)
        np.testing.assert_allclose(ours.scores, scores, atol=1e-8)


def test_the_layer_that_tells_most_is_chosen_and_scores_above_chance():
    states, label, speaker = corpus(0, clips=200)
    folds = one_speaker_out(speaker)
    choices = run(states, label, speaker, folds)
    assert {choice.layer for choice in choices} == {LAYERS - 1}
    right = [choice.scores.argmax(1) == label[fold.test] for choice, fold in zip(choices, folds, strict=True)]
    assert np.concatenate(right).mean() > 0.6


@pytest.mark.parametrize("seed", range(2))
def test_poisoned_features_and_labels_of_a_test_speaker_change_none_of_its_folds_choices(seed):
    states, label, speaker = corpus(seed)
    folds = one_speaker_out(speaker)
    clean = run(states, label, speaker, folds)
    rng = np.random.default_rng(seed + 100)
    changed = False
    for number, fold in enumerate(folds):
        poisoned, lies = states.copy(), label.copy()
        poisoned[:, fold.test] = 1000 * rng.normal(size=(LAYERS, len(fold.test), WIDTH))
        lies[fold.test] = rng.integers(CLASSES, size=len(fold.test))
        there = run(poisoned, lies, speaker, folds)
        assert (there[number].layer, there[number].ridge) == (clean[number].layer, clean[number].ridge)
        np.testing.assert_allclose(there[number].inner_uar, clean[number].inner_uar, rtol=1e-12)
        # Where the speaker is trained on, the same poison does act.
        others = [other for other in range(len(folds)) if other != number]
        changed |= any(np.abs(there[o].inner_uar - clean[o].inner_uar).max() > 0.05 for o in others)
        # Labels alone leave the fitted classifier as it is: the same clips get the same scores.
        scores = run(states, lies, speaker, folds)[number].scores
        np.testing.assert_allclose(scores, clean[number].scores, atol=1e-8)
    assert changed


@pytest.mark.parametrize("ridges", [(), (0.0, 1.0), (-1.0,)])
def test_penalties_that_are_none_are_one_clear_error(ridges):
    states, label, speaker = corpus(0)
    with pytest.raises(UserError, match="config.probe.ridges"):
        probe.probe(lambda layer: states[layer], LAYERS, label, CLASSES, speaker, one_speaker_out(speaker), ridges)


def test_one_training_speaker_is_one_clear_error():
    states, label, speaker = corpus(0)
    fold = Fold(np.flatnonzero(speaker == 0), np.flatnonzero(speaker == 1))
    with pytest.raises(UserError, match="two of them"):
        run(states, label, speaker, [fold])


def test_dev_speakers_are_trained_on_and_predictions_are_those_of_the_test_clips():
    states, label, speaker = corpus(0)
    clips = tuple(Clip(str(i), "abc"[c], str(s)) for i, (c, s) in enumerate(zip(label, speaker, strict=True)))
    shards = Shards([clip.id for clip in clips], list(states.swapaxes(0, 1)[:, None, :, None]))
    features = Features(Corpus("toy", tuple("abc"), clips), {"states": shards})
    test, dev = np.flatnonzero(speaker == 1), np.flatnonzero((speaker == 2) | (speaker == 3))
    train = np.setdiff1d(np.arange(len(label)), [*test, *dev])
    split = Split("speakers5", 1, train, dev, test, False)
    (ours,), (choice,) = probe.predict(features, [split], RIDGES)
    (plain,) = run(states, label, speaker, [Fold(np.union1d(train, dev), test)])
    assert ours.clips.tolist() == test.tolist() and (choice.layer, choice.ridge) == (plain.layer, plain.ridge)
    likelihood = np.exp(plain.scores) / np.exp(plain.scores).sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(ours.log_p), likelihood, rtol=1e-6)
