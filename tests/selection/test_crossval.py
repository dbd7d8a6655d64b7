"""Nested evaluation: what a fold chooses, and what may reach the choice."""

import csv
import pathlib
import shutil

import hypothesis
import jax
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st

from emoflax.configs import tiny
from emoflax.corpora import synthetic
from emoflax.data import splits
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import Features, permute_labels
from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.experiment.members import Member, folds
from emoflax.selection import crossval
from emoflax.selection.candidates import candidates_of, override

LABELS = ("calm", "happy", "sad")


def small(folder, **fields):
    config = tiny.get_config()
    config.data.dir, config.data.cache_dir = str(folder / "voices"), str(folder / "cache")
    config.data.buckets, config.audio.mels, config.model.cnn.channels = 1, 8, (4,)
    config.train.epochs, config.train.ema, config.seeds = 2, 0.9, (3,)
    config.augment.gain_db, config.augment.time_masks = 6.0, 1
    config.crossval.choose_epoch, config.precompute.workers = True, 1
    statistics = {"model.audio": "", "model.functionals": "ridge", "functionals.speeds": (1.0,), "train.epochs": 1}
    aligned = statistics | {"model.functionals": "aligned", "audio.contours": True, "audio.hop_ms": 10.0}
    config.model.aligned.update(states=4, parts=2, kernels=8, texts=2)
    config.crossval.candidates = {
        "slow": {}, "fast": {"optimizer.learning_rate": 2e-2}, "statistics": statistics, "aligned": aligned,
    }  # fmt: skip
    config.update_from_flattened_dict(fields)
    return config


def nested(folder):
    config = small(folder)
    (folder / "run").mkdir(exist_ok=True)
    corpus = crossval.open_features(config).corpus
    return crossval.run(config, corpus, folder / "run")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus of six speakers and a nested run over its first fold."""
    folder = tmp_path_factory.mktemp("nested")
    synthetic.make(folder / "voices", speakers=6, clips_per_emotion=1)
    return folder, nested(folder)


def poison(voices: pathlib.Path, speakers: set[str]) -> None:
    """Noise for recordings, each of a length of its own, and other labels."""
    rng = np.random.default_rng(0)
    with (voices / synthetic.INDEX).open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["speaker"] in speakers:
            soundfile.write(voices / row["file"], rng.uniform(-1, 1, rng.integers(4000, 40000)), 16000)
            row["emotion"] = synthetic.LABELS[synthetic.LABELS.index(row["emotion"]) - 3]
    with (voices / synthetic.INDEX).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_nothing_of_a_test_speaker_reaches_anything_but_the_final_scoring(place, tmp_path):
    folder, clean = place
    corpus = crossval.open_features(small(folder)).corpus
    tested = {corpus.clips[i].speaker for i in clean.one[0].clips}
    synthetic.make(tmp_path / "voices", speakers=6, clips_per_emotion=1)
    poison(tmp_path / "voices", tested)
    poisoned = nested(tmp_path)
    assert poisoned.choices == clean.choices
    models = sorted(path.parent.relative_to(folder) for path in folder.rglob("checkpoints"))
    assert len(models) >= 5  # four candidates, and the chosen one again
    for model in models:
        ours, theirs = (evaluate.restore(at / model / "checkpoints", last=True).state for at in (folder, tmp_path))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):  # weights, normalisation
            assert np.array_equal(a, b)
    assert not np.allclose(poisoned.one[0].log_p, clean.one[0].log_p)  # the poison was taken


def test_a_second_run_trains_nothing_and_answers_the_same(place):
    folder, first = place
    logs = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}
    removed = next((folder / "run" / "fold1").glob("*-seed3/test.npz"))
    removed.unlink()  # as if killed between training and scoring
    again = nested(folder)
    assert removed.exists() and {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")} == logs
    assert again.choices == first.choices
    for kept, new in ((first.one, again.one), (first.ensemble, again.ensemble)):
        assert all(np.array_equal(a.log_p, b.log_p) for a, b in zip(kept, new, strict=True))


def test_one_candidate_with_fixed_epochs_is_trained_on_all_training_speakers_at_once(place, tmp_path):
    folder, first = place
    config = small(folder, **{"crossval.choose_epoch": False, "train.epochs": 1, "crossval.candidates": {}})
    corpus = crossval.open_features(config).corpus
    result = crossval.run(config, corpus, tmp_path)
    (choice,), (member,) = result.choices, result.final
    assert (choice.why, choice.candidate, choice.weights) == ("only candidate", config.name, {config.name: 1.0})
    assert not result.inner and not list(tmp_path.glob("fold1/inner-*")) and (tmp_path / "choices.json").exists()
    assert np.array_equal(member.split.train, first.final[0].split.train)
    np.testing.assert_allclose(result.ensemble[0].log_p, result.one[0].log_p, atol=1e-6)
    assert "nothing is chosen" in " ".join(crossval.notes(config, result))


def test_without_the_final_models_candidates_are_scored_on_the_speakers_set_aside_and_no_test_clip_is(place, tmp_path):
    folder, first = place
    shutil.copytree(folder / "run", tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("test.npz"):
        path.unlink()
    config = small(folder, **{"crossval.final": False})
    result = crossval.run(config, crossval.open_features(config).corpus, tmp_path)
    assert not list(tmp_path.rglob("test.npz")) and not result.final and result.choices == first.choices
    parts = crossval.parts(config, result)
    assert [(part.folder, part.protocol) for part in parts] == [
        (f"inner/{name}", "speakers5-inner") for name in config.crossval.candidates
    ]
    assert not set(parts[0].predictions[0].clips) & set(first.one[0].clips)


def test_changed_settings_are_named_instead_of_answered_from_what_was_kept(place):
    folder, _ = place
    config = small(folder, **{"train.label_smoothing": 0.1})
    with pytest.raises(UserError, match="label_smoothing: 0.0 -> 0.1"):
        crossval.run(config, crossval.open_features(config).corpus, folder / "run")


def test_a_trained_network_can_be_asked_with_test_time_augmentation_and_without(place, tmp_path):
    folder, _ = place
    config = small(folder)
    config.crossval.candidates = {"network": {}}
    features = crossval.open_features(config)
    crossval.run(config, features.corpus, tmp_path)
    (split,) = folds(config, features.corpus, 0.25)
    config = candidates_of(config)["network"]
    member = Member(3, splits.nest(split)[1], tmp_path / "fold1" / "network-seed3")
    last = not config.crossval.choose_epoch
    plain = evaluate.predict_member(config, features, member, last=last)
    config.evaluate.speeds = (0.9, 1.0)
    both = evaluate.predict_member(config, features, member, last=last)
    config.evaluate.speeds = (0.9,)
    slow = evaluate.predict_member(config, features, member, last=last)
    assert not np.allclose(slow.log_p, plain.log_p, atol=1e-3)
    mean = (plain.log_p + slow.log_p) / 2
    expected = mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(both.log_p, expected, rtol=1e-4, atol=1e-5)


def corpus_of(speakers, clips=6):
    names = [f"s{number:02d}" for number in range(speakers)]
    made = [Clip(f"{name}/{i}", LABELS[i % 3], name) for name in names for i in range(clips)]
    return Corpus("toy", LABELS, tuple(made))


@pytest.mark.parametrize("protocol", ["loso", "speakers5", "random5"])
@hypothesis.given(speakers=st.integers(5, 11), share=st.floats(0.1, 0.5))
@hypothesis.settings(max_examples=20, deadline=None)
def test_choices_are_made_on_training_clips_and_all_of_them_train_in_the_end(protocol, speakers, share):
    corpus = corpus_of(speakers)
    split = splits.make_split(corpus, protocol, 2, share, {})
    inner, outer = splits.nest(split)
    assert len(inner.test) == 0 and len(inner.dev) > 0 and len(outer.dev) == 0
    assert np.array_equal(np.sort([*inner.train, *inner.dev]), outer.train)
    assert np.array_equal(np.sort([*outer.train, *outer.test]), np.arange(len(corpus.clips)))
    if not split.shares_speakers:
        parts = [{corpus.clips[i].speaker for i in part} for part in (inner.train, inner.dev, outer.test)]
        assert sum(map(len, parts)) == len(set().union(*parts)) == speakers


def test_shuffled_labels_are_the_training_clips_own_and_no_other_clip_changes():
    corpus = corpus_of(5)
    train = np.arange(7, 25)
    shuffled = permute_labels(Features(corpus, {}), train, 1).corpus
    changed = [i for i, (a, b) in enumerate(zip(corpus.clips, shuffled.clips, strict=True)) if a != b]
    assert changed and set(changed) <= set(train)
    assert sorted(corpus.clips[i].label for i in train) == sorted(shuffled.clips[i].label for i in train)
    assert permute_labels(Features(corpus, {}), train, 1).corpus == shuffled
    assert permute_labels(Features(corpus, {}), train, 2).corpus != shuffled


@pytest.mark.parametrize("fields", [{"seeds": (1,)}, {"split.protocol": "loso"}, {"train.epochz": 3},
                                    {"train.epochs": "many"}])  # fmt: skip
def test_a_candidate_may_not_change_what_is_compared_nor_invent_fields(fields):
    with pytest.raises(UserError, match=f"candidate odd: .*{next(iter(fields)).split('.')[-1]}"):
        override(tiny.get_config(), "odd", fields)
