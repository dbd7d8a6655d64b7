"""The linear probe chooses what the slow, plain way would, and a test speaker has no say in it."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from emoflax.configs import default
from emoflax.data.clip import Corpus
from emoflax.data.features import Features
from emoflax.errors import UserError
from emoflax.selection import probe

RIDGES = (0.01, 1.0, 30.0)
LAYERS, WIDTH, CLASSES = 3, 7, 3


def corpus(seed, speakers=6, clips=61):
    """Clips of uneven numbers per speaker and class, whose last layer tells most about the class."""
    rng = np.random.default_rng(seed)
    speaker, label = rng.integers(speakers, size=clips), rng.choice(CLASSES, size=clips, p=(0.5, 0.3, 0.2))
    speaker[: speakers * CLASSES], label[: speakers * CLASSES] = np.divmod(np.arange(speakers * CLASSES), CLASSES)
    centres = rng.normal(size=(CLASSES, WIDTH))
    states = rng.normal(size=(LAYERS, clips, WIDTH)) + np.linspace(0, 0.8, LAYERS)[:, None, None] * centres[label]
    return states * rng.uniform(0.1, 10, size=(LAYERS, 1, WIDTH)) + 3, label, speaker


def one_speaker_out(speaker):
    return [np.flatnonzero(speaker != s) for s in np.unique(speaker)]


def two_speakers_out_and_one_ignored(speaker):
    return [np.flatnonzero((speaker != s) & (speaker != s + 1) & (speaker != 5)) for s in (0, 2)]


def run(states, label, speaker, trains):
    return probe.probe(lambda layer: states[layer], LAYERS, label, CLASSES, speaker, trains, RIDGES)


def fit_and_predict(features, label, weight, ridge, fitted, held):
    model = RidgeClassifier(alpha=ridge * features.shape[1]).fit(features[fitted], label[fitted], weight[fitted])
    return model.decision_function(features[held])


def uar(label, predicted):
    return np.mean([np.mean(predicted[label == c] == c) for c in np.unique(label)])


def plainly(states, label, speaker, trains):
    """The same choice, each model fitted by scikit-learn to the clips that it may see: (inner UAR, layer, ridge)."""
    choices = []
    half = (len(trains) + 1) // 2
    for number, train in enumerate(trains):
        others = trains[:half] if number < half else trains[half:]
        shared = [i for i in range(len(label)) if all(i in other for other in others)]
        weight = np.array([len(shared) / (CLASSES * np.sum(label[shared] == c)) for c in label])
        best = (-1.0,)
        for ridge in sorted(RIDGES, reverse=True):
            for layer in range(LAYERS):
                features = (states[layer] - states[layer][shared].mean(0)) / states[layer][shared].std(0)
                inner = np.empty(len(label), int)
                for left_out in np.unique(speaker[train]):
                    held = train[speaker[train] == left_out]
                    fitted = train[speaker[train] != left_out]
                    inner[held] = fit_and_predict(features, label, weight, ridge, fitted, held).argmax(1)
                score = uar(label[train], inner[train])
                if score > best[0] + 1e-12:
                    best = (score, layer, ridge)
        choices.append(best)
    return choices


@pytest.mark.parametrize("trains_of", [one_speaker_out, two_speakers_out_and_one_ignored])
@pytest.mark.parametrize("seed", range(2))
def test_the_probe_equals_scikit_learns_ridge_classifier_nested_the_plain_way(seed, trains_of):
    states, label, speaker = corpus(seed)
    trains = trains_of(speaker)
    for ours, (score, layer, ridge) in zip(
        run(states, label, speaker, trains), plainly(states, label, speaker, trains), strict=True
    ):
        assert (ours.layer, ours.ridge) == (layer, ridge)
        assert ours.inner_uar.max() == pytest.approx(score)


def test_the_layer_that_tells_most_is_chosen():
    states, label, speaker = corpus(0, clips=200)
    choices = run(states, label, speaker, one_speaker_out(speaker))
    assert {choice.layer for choice in choices} == {LAYERS - 1}


@pytest.mark.parametrize("seed", range(2))
def test_poisoned_features_and_labels_of_a_test_speaker_change_none_of_its_folds_choices(seed):
    states, label, speaker = corpus(seed)
    trains = one_speaker_out(speaker)
    clean = run(states, label, speaker, trains)
    rng = np.random.default_rng(seed + 100)
    changed = False
    for number, train in enumerate(trains):
        test = np.setdiff1d(np.arange(len(label)), train)
        poisoned, lies = states.copy(), label.copy()
        poisoned[:, test] = 1000 * rng.normal(size=(LAYERS, len(test), WIDTH))
        lies[test] = rng.integers(CLASSES, size=len(test))
        there = run(poisoned, lies, speaker, trains)
        assert (there[number].layer, there[number].ridge) == (clean[number].layer, clean[number].ridge)
        np.testing.assert_allclose(there[number].inner_uar, clean[number].inner_uar, rtol=1e-12)
        # Where the speaker is trained on, the same poison does act.
        others = [other for other in range(len(trains)) if other != number]
        changed |= any(np.abs(there[o].inner_uar - clean[o].inner_uar).max() > 0.05 for o in others)
    assert changed


@pytest.mark.parametrize("ridges", [(), (0.0, 1.0), (-1.0,)])
def test_penalties_that_are_none_are_one_clear_error(ridges):
    states, label, speaker = corpus(0)
    with pytest.raises(UserError, match="config.probe.ridges"):
        probe.probe(lambda layer: states[layer], LAYERS, label, CLASSES, speaker, one_speaker_out(speaker), ridges)


def test_one_training_speaker_is_one_clear_error():
    states, label, speaker = corpus(0)
    with pytest.raises(UserError, match="two of them"):
        run(states, label, speaker, [np.flatnonzero(speaker == 0)])


def test_a_config_of_another_model_is_one_clear_error():
    features = Features(Corpus("toy", ("a",), ()), {})
    with pytest.raises(UserError, match="config.model.functionals='states'"):
        probe.choose(default.get_config(), features, [])
