"""A closed-form model's temperature comes from training clips that the fit without their speaker predicts."""

import numpy as np
import pytest

from emoflax.configs import general
from emoflax.data.clip import Clip, Corpus
from emoflax.experiment import closed_form
from emoflax.models import ridge
from emoflax.reporting import calibration


class Known:
    """Features of which the calibration takes the corpus alone."""

    def __init__(self, label, speaker):
        clips = tuple(Clip(str(i), "ab"[y], str(s)) for i, (y, s) in enumerate(zip(label, speaker, strict=True)))
        self.corpus, self.copies = Corpus("toy", ("a", "b"), clips), ()


@pytest.mark.parametrize("rows", [1, 3])
def test_the_temperature_makes_left_out_clips_likeliest_also_over_several_rows_of_each(rows):
    random = np.random.default_rng(0)
    label, speaker = np.arange(60) % 2, np.arange(60) // 10
    x = random.normal(size=(60, 20)) + 0.8 * label[:, None] * (np.arange(20) < 2)
    x = np.repeat(x, rows, axis=0) + 0.3 * random.normal(size=(60 * rows, 20))
    solution = ridge.solve(
        x - x.mean(0), ridge.Labelled.of(np.repeat(label, rows), 2, np.repeat(speaker, rows)), (0.1, 1.0)
    )
    assert solution.left_out.shape == (60 * rows, 2)
    clips, log_p = closed_form.left_out(solution, Known(label, speaker), np.arange(60))
    kept = calibration.fitted(log_p, label[clips])
    logits = solution.left_out - np.logaddexp.reduce(solution.left_out, axis=1, keepdims=True)
    mean = logits.reshape(60, rows, 2).mean(1)
    mean = mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)

    def loss(temperature):
        return calibration.scores(calibration.tempered(mean, temperature), label)["nll"]

    np.testing.assert_allclose(log_p, mean, atol=1e-12)
    assert kept["clips"] == 60 and 0.5 < kept["right"][0] < 1
    assert all(loss(kept["temperature"]) <= loss(factor * kept["temperature"]) for factor in (0.8, 1.25))


def test_whole_corpora_are_left_out_with_those_of_the_same_people_where_two_groups_of_people_train():
    said = [("one", "a"), ("one", "b"), ("songs", "a"), ("other", "c"), ("other", "d")]
    corpus = Corpus("all", ("x",), tuple(Clip(str(i), "x", who, corpus=name) for i, (name, who) in enumerate(said)))
    config = general.get_config()
    one, same, songs, other, again = closed_form.people_of(config, corpus, np.arange(5))
    assert one == same == songs != other == again
    assert closed_form.people_of(config, corpus, np.arange(3)) is None  # speakers are left out there
    config.train.leave_out = "speaker"
    assert closed_form.people_of(config, corpus, np.arange(5)) is None


def test_of_many_clips_those_that_were_left_out_alone_tell_the_temperature(monkeypatch):
    monkeypatch.setattr(ridge, "_GROUPS", 2)
    monkeypatch.setattr(ridge, "_CLIPS", 20)
    random = np.random.default_rng(0)
    label, speaker = np.arange(60) % 2, np.arange(60) // 10
    x = random.normal(size=(120, 5)) + np.repeat(label, 2)[:, None]
    solution = ridge.solve(x - x.mean(0), ridge.Labelled.of(np.repeat(label, 2), 2, np.repeat(speaker, 2)), (0.1,))
    clips, log_p = closed_form.left_out(solution, Known(label, speaker), np.arange(60))
    assert len(np.unique(speaker[clips])) == 2 and len(clips) == 20
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1)
