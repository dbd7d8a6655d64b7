"""The calibration of a checkpoint: which epochs it knows, and that a run that goes on has the same."""

import shutil

import numpy as np
import pytest
from test_population import config_of, features

from emoflax.experiment import evaluate, population, run
from emoflax.experiment.members import Member, folds
from emoflax.reporting import calibration
from emoflax.reporting.crossfit import CrossFitted
from emoflax.selection import crossval
from emoflax.training.checkpoint import Checkpoints, open_existing

EPOCHS = 4


def config_of_four_epochs():
    config = config_of()
    config.train.epochs, config.optimizer.learning_rate = EPOCHS, 3e-2
    return config


def member_of(folder, epochs=None):
    """Three training speakers, two dev speakers, one test speaker."""
    split = folds(config_of_four_epochs(), features().corpus, 0.4)[2]
    assert len({features().corpus.clips[i].speaker for i in split.dev}) == 2
    return Member(1, split, folder / "member", epochs)


def train(folder, *stops):
    """To those epochs one after the other, each time from the checkpoints on disk."""
    for epochs in stops:
        run.train_member(config_of_four_epochs(), features(), member_of(folder, epochs))
    return member_of(folder).checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), EPOCHS)


def dev_log_p(monkeypatch):
    """A list that gets the log-probabilities of the dev clips after each epoch."""
    seen, score = [], run.scoring.score
    monkeypatch.setattr(run.scoring, "score", lambda *rest: seen.append(score(*rest)) or seen[-1])
    return seen


def refitted(folder, log_p):
    """The calibration of those epochs, and the state behind it, by hand."""
    split, corpus = member_of(folder).split, features().corpus
    label, speaker = np.array(corpus.label_numbers(split.dev)), [corpus.clips[i].speaker for i in split.dev]
    made = CrossFitted.before_training(np.unique(speaker, return_inverse=True)[1], len(corpus.labels))
    for of_epoch in log_p:
        made = made.after(of_epoch, label, config_of_four_epochs().train.select)
    return calibration.fitted(made.log_p_NxC, label) | {"cross_fitted": True}, made


def calibrations(checkpoints):
    """Of each epoch that is left, with the state behind it."""
    there = open_existing(checkpoints)
    epochs = sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    return {epoch: (there.describe(epoch)["calibration"], there.dev(epoch)) for epoch in epochs}


@pytest.mark.parametrize("stops", [(2, EPOCHS), (1, 3, EPOCHS)])
def test_a_run_that_was_resumed_has_the_calibration_of_an_uninterrupted_one(whole, tmp_path, stops):
    assert calibrations(train(tmp_path, *stops)) == calibrations(whole)


def test_every_epoch_is_calibrated_on_dev_speakers_by_the_epochs_that_others_chose(tmp_path, monkeypatch):
    log_p = dev_log_p(monkeypatch)
    checkpoints = train(tmp_path, EPOCHS)
    for epoch, (kept, dev) in calibrations(checkpoints).items():
        expected, made = refitted(tmp_path, log_p[:epoch])
        assert kept == expected and dev == made.saved()


def test_members_trained_side_by_side_are_calibrated_in_the_same_way(tmp_path, monkeypatch):
    log_p, config = dev_log_p(monkeypatch), config_of_four_epochs()
    members = [Member(seed, member_of(tmp_path).split, tmp_path / f"seed{seed}") for seed in (1, 2)]
    population.train_members([(config, features(), member) for member in members], 2)
    for number, member in enumerate(members):
        assert calibrations(member.checkpoints)[EPOCHS][0] == refitted(tmp_path, log_p[number::2])[0]


def test_the_best_epoch_is_used_with_the_calibration_of_all_epochs_that_it_was_chosen_from(tmp_path):
    checkpoints = _with_best(tmp_path, best=1)
    assert evaluate.restore(checkpoints).description["epoch"] == 1
    kept = calibrations(checkpoints)
    assert evaluate.restore(checkpoints).description["calibration"] == kept[EPOCHS][0] != kept[1][0]


def _with_best(folder, best, cross_fitted=True):
    """A run in which the scores by which the epoch is chosen, but no log-probabilities, favour one epoch."""
    save = Checkpoints.save

    def saved(self, epoch, description, score, *parts, dev):
        if not cross_fitted:  # as earlier versions did
            kept = {name: value for name, value in description["calibration"].items() if name != "cross_fitted"}
            description, dev = description | {"calibration": kept}, None
        save(self, epoch, description, float(epoch == best), *parts, dev=dev)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", saved)
        return train(folder, EPOCHS if cross_fitted else EPOCHS - 1)


def test_checkpoints_of_an_earlier_version_keep_their_own_calibration(tmp_path):
    checkpoints = _with_best(tmp_path, best=1, cross_fitted=False)
    kept = calibrations(checkpoints)
    assert evaluate.restore(checkpoints).description["calibration"] == kept[1][0] != kept[EPOCHS - 1][0]


def test_a_run_that_an_earlier_version_began_goes_on_and_takes_the_epochs_to_come(tmp_path, monkeypatch):
    checkpoints = _with_best(tmp_path, best=1, cross_fitted=False)
    log_p = dev_log_p(monkeypatch)
    train(tmp_path, EPOCHS)
    assert len(log_p) == 1 and calibrations(checkpoints)[EPOCHS][0] == refitted(tmp_path, log_p)[0]


def test_inner_predictions_of_a_network_that_chooses_its_epoch_are_cross_fitted(tmp_path, monkeypatch):
    config, member = config_of_four_epochs(), member_of(tmp_path)
    log_p = dev_log_p(monkeypatch)
    monkeypatch.setattr(crossval, "training_features", lambda task: features())
    for choose_epoch in (True, False):
        config.crossval.choose_epoch = choose_epoch
        learned = crossval.learn(crossval.Task(config, Member(1, member.split, tmp_path / str(choose_epoch)), "dev"))
        last = log_p[EPOCHS - 1]
        expected = refitted(tmp_path, log_p[:EPOCHS])[1].log_p_NxC if choose_epoch else last
        np.testing.assert_allclose(learned.log_p, expected, rtol=1e-5)
    assert not np.allclose(refitted(tmp_path, log_p[:EPOCHS])[1].log_p_NxC, last)


def test_other_test_time_augmentation_than_in_training_is_not_answered_from_what_training_kept(whole):
    config, member = config_of_four_epochs(), member_of(whole.parents[1])
    kept = evaluate.cross_fitted(config, member)["log_p"]
    assert np.array_equal(kept, np.array(open_existing(whole).dev(EPOCHS)["log_p"]))
    config.evaluate.speeds = (0.9, 1.0)
    assert not evaluate.cross_fitted(config, member)


def test_the_calibration_survives_a_last_epoch_whose_description_is_damaged(whole, tmp_path):
    checkpoints = shutil.copytree(whole, tmp_path / "checkpoints")
    path = next(file for file in (checkpoints / str(EPOCHS) / "description").rglob("*") if file.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    assert evaluate.restore(checkpoints).description["calibration"] == calibrations(whole)[EPOCHS - 1][0]
