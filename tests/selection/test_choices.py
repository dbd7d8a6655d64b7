"""What a fold chooses from given predictions, and what follows from the choice; nothing is trained here."""

import dataclasses
import pathlib

import numpy as np
import pytest

from emoflax.configs import tiny
from emoflax.data import splits
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import Features
from emoflax.experiment.evaluate import Predictions
from emoflax.experiment.members import Member
from emoflax.reporting import calibration
from emoflax.selection import crossval, fit, held_out, kept_predictions, pool

LABELS = ("calm", "happy", "sad")


def corpus_of(*counts):
    """A corpus with so many clips of each label, by six speakers."""
    labels = np.repeat(LABELS, counts)
    return Corpus("toy", LABELS, tuple(Clip(str(i), label, f"s{i % 6}") for i, label in enumerate(labels)))


def predictions_of(guesses, seed=0, epoch=1):
    logits = 2.0 * np.eye(len(LABELS))[np.asarray(guesses)]
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return Predictions(seed, 1, epoch, np.arange(len(logits)), log_p, parameters=10, seconds=1.0)


def right_in(count, corpus, seed=0, epoch=1):
    """Predictions that are right for the first clips of each label, and wrong for the others."""
    label = np.array(corpus.label_numbers(range(len(corpus.clips))))
    place = np.arange(len(label)) - np.searchsorted(label, label)
    return predictions_of(np.where(place < count, label, (label + 1) % len(LABELS)), seed, epoch)


def config_of(seeds=(0, 1, 2), **fields):
    config = tiny.get_config()
    config.seeds = seeds
    config.update_from_flattened_dict(fields)
    return config


def test_the_candidate_with_the_best_mean_over_seeds_is_chosen():
    corpus = corpus_of(10, 10, 10)
    right = {"weak": (2, 3, 1), "steady": (7, 7, 7), "lucky": (10, 4, 4)}
    dev = {name: [right_in(n, corpus, seed) for seed, n in enumerate(counts)] for name, counts in right.items()}
    choice = crossval.choose(dev, dict.fromkeys(dev, config_of()), 1, corpus)
    assert choice.candidate == "steady" and choice.why == "dev scores"
    assert choice.scores == pytest.approx({"weak": 0.2, "steady": 0.7, "lucky": 0.6})


@pytest.mark.parametrize(("select", "chosen"), [("uar", "fair"), ("accuracy", "majority")])
def test_candidates_are_compared_by_the_metric_that_the_config_names(select, chosen):
    corpus = corpus_of(20, 4, 4)
    dev = {
        "majority": [predictions_of([0] * 28)],
        "fair": [predictions_of([0] * 10 + [1] * 10 + [1] * 4 + [2] * 4)],
    }
    candidates = dict.fromkeys(dev, config_of((0,), **{"train.select": select}))
    assert crossval.choose(dev, candidates, 1, corpus).candidate == chosen


@pytest.mark.parametrize("choose_epoch", [True, False])
def test_final_models_are_trained_for_the_median_of_the_best_epochs_or_for_all(choose_epoch):
    corpus = corpus_of(10, 10, 10)
    candidates = {"one": config_of(**{"crossval.choose_epoch": choose_epoch})}
    dev = {"one": [right_in(6, corpus, seed, epoch) for seed, epoch in enumerate((2, 31, 5))]}
    choice = crossval.choose(dev, candidates, 1, corpus)
    outer = [splits.nest(splits.make_split(corpus, "speakers5", 1, 0.25, {}))[1]]
    tasks = crossval.final_tasks(candidates, outer, [choice], pathlib.Path("runs"))
    assert [(task.member.seed, task.member.epochs) for task in tasks.values()] == [
        (seed, 5 if choose_epoch else None) for seed in range(3)
    ]


def test_an_ensemble_has_every_seed_of_its_candidates_by_their_weights():
    rng = np.random.default_rng(0)
    members = {
        name: [dataclasses.replace(predictions_of([0] * 8, seed), log_p=np.log(rng.dirichlet(np.ones(3), 8)))
               for seed in range(3)]
        for name in ("a", "b")
    }  # fmt: skip
    choice = crossval.Choice(1, "dev scores", "a", {}, {"a": None, "b": None}, {"a": 0.7, "b": 0.4})
    mixed = crossval.mix(choice, members)
    product = np.prod([
        np.exp(member.log_p) ** (weight / 3) for name, weight in choice.weights.items() for member in members[name]
    ], axis=0)  # fmt: skip
    np.testing.assert_allclose(np.exp(mixed.log_p), product / product.sum(1, keepdims=True), rtol=1e-9)
    assert (mixed.parameters, mixed.seconds) == (60, 6.0)
    np.testing.assert_allclose(mixed.log_p, pool.mix([held_out.mean_log_p(m) for m in members.values()], [0.7, 0.4]))


def left_out(predictions, clips, guesses):
    """The same predictions with some of training clips, each by a fit without its speaker."""
    return dataclasses.replace(
        predictions, left_out_clips=np.array(clips), left_out_log_p=predictions_of(guesses).log_p
    )


def test_closed_form_candidates_are_weighed_by_all_training_speakers():
    corpus = corpus_of(10, 10, 10)
    label = np.repeat(np.arange(3), 10)
    dev = {name: dataclasses.replace(right_in(8, corpus), clips=np.arange(3), log_p=predictions_of([0] * 3).log_p)
           for name in ("a", "b")}  # fmt: skip
    inside = np.arange(3, 30)
    one = left_out(dev["a"], inside, label[inside])
    other = left_out(dev["b"], inside[::-1], (label[inside[::-1]] + 1) % 3)
    choice = crossval.choose({"a": [one], "b": [other]}, dict.fromkeys("ab", config_of((0,))), 1, corpus)
    assert list(choice.weights) == ["a"]  # alike on the inner validation clips, and all wrong elsewhere
    known = held_out.of({"a": [one], "b": [other]}, corpus)
    log_p = known.log_p_MxNxC
    np.testing.assert_array_equal(known.label_N, label)
    assert known.speaker_N.tolist() == [corpus.clips[i].speaker for i in range(30)]
    assert (log_p[0, 3:].argmax(1) == label[3:]).all() and (log_p[1, 3:].argmax(1) != label[3:]).all()


def test_beside_a_network_candidates_are_weighed_by_the_inner_validation_clips_alone():
    corpus = corpus_of(10, 10, 10)
    closed = left_out(right_in(8, corpus), np.arange(5), [0] * 5)
    known = held_out.of({"closed": [closed], "network": [right_in(5, corpus)]}, corpus)
    assert known.log_p_MxNxC.shape == (2, 30, 3) and len(known.label_N) == 30


@pytest.mark.parametrize("sharpness", [0.5, 4.0])
def test_the_chosen_candidate_gets_the_temperature_that_fits_the_inner_validation_clips(sharpness):
    """That of the same logits before they were made `sharpness` times as sure, times as much."""
    corpus, rng = corpus_of(400, 400, 400), np.random.default_rng(0)
    label = np.repeat(np.arange(3), 400)
    logits = 2 * np.eye(3)[label] + rng.gumbel(size=(1200, 3)) - rng.gumbel(size=(1200, 3))
    own = calibration.fit_temperature(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), label)
    made = dataclasses.replace(predictions_of(label), log_p=sharpness * logits)
    made.log_p[:] -= np.logaddexp.reduce(made.log_p, axis=1, keepdims=True)
    choice = crossval.choose({"one": [made, made]}, {"one": config_of()}, 1, corpus)
    assert choice.temperature == pytest.approx(sharpness * own, rel=1e-2)
    after = crossval.tempered(made, choice.temperature).log_p
    assert (after.argmax(1) == made.log_p.argmax(1)).all()
    assert calibration.scores(after, label)["nll"] < calibration.scores(made.log_p, label)["nll"]


def test_without_inner_models_the_checkpoints_own_temperature_is_taken():
    made = dataclasses.replace(predictions_of([0, 1, 2]), temperature=2.0)
    assert crossval.only("one", 1).temperature is None
    np.testing.assert_allclose(crossval.tempered(made, None).log_p, calibration.tempered(made.log_p, 2.0))


def test_a_single_candidate_has_inner_models_if_a_temperature_is_wanted_alone():
    assert not crossval.chooses({"one": config_of(**{"crossval.choose_epoch": False})})
    assert crossval.chooses({"one": config_of(**{"crossval.choose_epoch": False, "crossval.calibrate": True})})


@pytest.mark.parametrize("kind", ["best", "ensemble"])
def test_what_is_fitted_on_everybody_keeps_the_calibration_of_all_folds_inner_predictions(kind):
    corpus = corpus_of(10, 10, 10)
    dev = {(fold, name, 0): dataclasses.replace(right_in(n, corpus), fold=fold)
           for fold in (1, 2) for name, n in (("a", 6), ("b", 4))}  # fmt: skip
    chosen = fit.weigh(dev, dict.fromkeys("ab", config_of((0,))), corpus, kind)
    kept, weight = chosen.calibration, [chosen.weights.get(name, 0.0) for name in "ab"]
    assert kept["clips"] == 60 and kept["right"][0] == pytest.approx(0.6)
    members = [np.concatenate([dev[fold, name, 0].log_p for fold in (1, 2)]) for name in "ab"]
    label = np.tile([corpus.labels.index(clip.label) for clip in corpus.clips], 2)
    mixed = pool.mix(members, weight)
    assert kept["temperature"] == pytest.approx(calibration.fit_temperature(mixed, label), abs=1e-3)


def test_kept_predictions_are_taken_for_the_settings_that_made_them_alone(tmp_path):
    path, made = tmp_path / "dev.npz", right_in(3, corpus_of(4, 4, 4), seed=2, epoch=7)
    assert kept_predictions.read(path, "these settings") is None
    kept_predictions.write(path, "these settings", made)
    kept = kept_predictions.read(path, "these settings")
    assert (kept.seed, kept.fold, kept.epoch, kept.parameters, kept.seconds) == (2, 1, 7, 10, 1.0)
    np.testing.assert_array_equal(kept.log_p, made.log_p)
    assert len(kept.left_out_clips) == 0
    assert kept_predictions.read(path, "other settings") is None


@pytest.mark.parametrize("shuffled_by", [0, 5])
def test_the_label_permutation_control_trains_on_shuffled_labels_and_nothing_else_does(monkeypatch, shuffled_by):
    corpus = corpus_of(10, 10, 10)
    monkeypatch.setattr(crossval, "open_features", lambda config: Features(corpus, {}))
    inner, _ = splits.nest(splits.make_split(corpus, "speakers5", 1, 0.25, {}))
    config = config_of(**{"crossval.permute_labels": shuffled_by})
    task = crossval.Task(config, Member(0, inner, pathlib.Path("runs")), "dev")
    learnt_from = crossval.training_features(task).corpus.clips
    changed = {i for i, (a, b) in enumerate(zip(corpus.clips, learnt_from, strict=True)) if a != b}
    assert bool(changed) == bool(shuffled_by) and changed <= set(inner.train)


@pytest.mark.parametrize(
    ("candidates", "models", "recorded"), [(1, 1, [True, False]), (1, 3, [True] * 2), (2, 1, [True] * 2)]
)
def test_an_ensemble_that_can_only_be_the_one_model_gets_no_row_of_its_own_in_the_ledger(candidates, models, recorded):
    corpus, config = corpus_of(10, 10, 10), config_of((0,))
    config.crossval.candidates = {f"c{number}": {} for number in range(candidates)}
    split = splits.make_split(corpus, "speakers5", 1, 0.25, {})
    scored = [right_in(8, corpus)]
    final = [Member(0, split, pathlib.Path("runs"))]
    result = crossval.Result([], final, final, {}, one=scored, ensemble=scored, models=models)
    assert [part.recorded for part in crossval.parts(config, result)] == recorded


def test_a_report_says_whose_models_predicted_so_that_pretrained_weights_of_other_candidates_do_not_count():
    corpus, config = corpus_of(10, 10, 10), config_of((0,))
    config.crossval.candidates = {name: {} for name in "abc"}
    split, scored = splits.make_split(corpus, "speakers5", 1, 0.25, {}), [right_in(8, corpus)]
    final = [Member(0, split, pathlib.Path("runs"))]
    made = [crossval.Choice(fold, "dev scores", "ba"[fold], {}, {}, {"a": 0.7, "b": 0.4}) for fold in (0, 1)]
    result = crossval.Result(made, final, final, {"c": scored}, one=scored, ensemble=scored, models=2)
    inner, one, ensemble = crossval.parts(config, result)
    assert inner.candidates == {"c"} and one.candidates == ensemble.candidates == {"a", "b"}
    result = crossval.Result(made[:1], final, final, {}, one=scored, ensemble=scored, models=2)
    one, ensemble = crossval.parts(config, result)
    assert one.candidates == {"b"} and ensemble.candidates == {"a", "b"}
