"""The learned sum of an encoder's layers."""

import jax
import numpy as np
import pytest
from flax import nnx

from emoflax.errors import UserError
from emoflax.models import ridge
from emoflax.models.layer_sum import LayerSum

LAYERS, WIDTH, CLASSES, SPEAKERS = 4, 8, 3, 6
RNG = np.random.default_rng(1)
LABEL = RNG.integers(0, CLASSES, 120)
SPEAKER = np.arange(120) % SPEAKERS
STATES = RNG.normal(size=(120, LAYERS, WIDTH)).astype(np.float32)
STATES[:, 2] += 1.5 * RNG.normal(size=(CLASSES, WIDTH)).astype(np.float32)[LABEL]  # one layer knows the label
ROWS = STATES.reshape(120, -1)


def model(hidden=0, penalties=(0.01,)):
    size = LAYERS * WIDTH
    return LayerSum(
        size, layers=LAYERS, hidden=hidden, penalties=penalties, classes=CLASSES, dtype="float32", rngs=nnx.Rngs(0)
    )


def labelled(label=LABEL, corpus=()):
    return ridge.Labelled.of(label, CLASSES, SPEAKER, corpus)


@pytest.mark.parametrize("hidden", [0, 4])
def test_the_layer_that_knows_the_label_gets_the_weight(hidden):
    fitted = model(hidden)
    solution = fitted.fit(ROWS, labelled())
    share = np.asarray(jax.nn.softmax(fitted.share[...]))
    assert share[2] > 0.8 and solution.uar > 0.8
    assert (fitted(ROWS).argmax(1) == LABEL).mean() > 0.9


def test_a_left_out_prediction_knows_nothing_of_its_own_speaker_s_labels():
    true = model().fit(ROWS, labelled()).left_out
    own = SPEAKER == 0
    changed = model().fit(ROWS, labelled(np.where(own, (LABEL + 1) % CLASSES, LABEL))).left_out
    ours, theirs = (scores - scores.mean(1, keepdims=True) for scores in (true[own], changed[own]))
    # The temperature and the classes' weights do depend on all labels: the direction of the scores hardly does.
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert np.median(cosine) > 0.9
    assert (true[own].argmax(1) == LABEL[own]).mean() > 0.7


def test_a_corpus_without_an_emotion_says_nothing_about_it():
    corpus = np.where(SPEAKER < 3, "a", "b")
    other_room = np.zeros((LAYERS, WIDTH), np.float32)
    other_room[2] = 8 * np.resize([1, -1], WIDTH)  # by which corpora are told apart, and from that who has the emotion
    rows = (STATES + np.where(corpus == "b", 1, 0)[:, None, None] * other_room).reshape(120, -1)
    keep = (corpus == "a") | (LABEL != 2)
    fitted = model(penalties=(1e-3,))
    fitted.fit(rows[keep], ridge.Labelled.of(LABEL[keep], CLASSES, SPEAKER[keep], corpus[keep]))
    assert (fitted(rows[~keep]).argmax(1) == 2).mean() > 0.8


def test_the_penalty_under_which_left_out_labels_are_likeliest_is_taken():
    assert model(penalties=(1e-2, 1e3)).fit(ROWS, labelled()).ridge == 1e-2


def test_numbers_that_are_not_those_of_so_many_layers_are_refused():
    with pytest.raises(UserError, match="cannot be those of 4 layers"):
        LayerSum(7, layers=4, hidden=0, penalties=(1.0,), classes=3, dtype="float32", rngs=nnx.Rngs(0))
