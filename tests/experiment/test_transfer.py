"""Models on a corpus that they were not trained on: shared emotions alone, in a report that says so."""

import csv
import dataclasses
import json
import shutil

import cli
import numpy as np
import pages
import pytest

from emoflax.corpora import joined, synthetic
from emoflax.data.clip import Clip, Corpus
from emoflax.data.splits import Split
from emoflax.experiment import evaluate, seen
from emoflax.experiment.evaluate import Predictions


def manifest(path, rows, names=None, speakers=None, but=()):
    """Some of the rows of the synthetic corpus's index as a manifest, under other labels."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "emotion", "speaker"])
        for row in rows:
            if row["speaker"] in speakers and row["emotion"] not in but:
                writer.writerow(
                    [f"voices/{row['file']}", (names or {}).get(row["emotion"], row["emotion"]), row["speaker"]]
                )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Manifests of three groups of synthetic speakers, and a tiny model trained on two of them in turn."""
    folder = tmp_path_factory.mktemp("transfer")
    synthetic.make(folder / "voices", speakers=9, clips_per_emotion=2)
    with (folder / "voices" / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    speakers = sorted({row["speaker"] for row in rows})
    emotions = sorted({row["emotion"] for row in rows})
    manifest(folder / "one.csv", rows, speakers=speakers[:4])
    manifest(folder / "two.csv", rows, speakers=speakers[4:6], but=emotions[:1])
    manifest(folder / "far.csv", rows, {"happy": "joy", "calm": "odd"}, speakers[6:], but=emotions[-1:])
    several = ["--config.data.corpus=manifest,manifest", "--config.data.dir=one.csv,two.csv"]
    fields = [
        "--config.report.html=True",
        "--config.train.epochs=2",
        "--config.split.fold=all",
        "--config.train.balance_corpora=True",
    ]
    cli.run(cli.config("tiny"), *several, *fields, "--config.split.protocol=loco+corpusnorm", cwd=folder)
    return folder


RUN = "runs/tiny-manifest-one+manifest-two-loco+corpusnorm"


def report(path):
    return json.loads((path / "report.json").read_text())


def test_each_corpus_left_out_has_a_report_over_the_emotions_that_both_have(place):
    emotions = report(place / RUN)["labels"]
    for one, two in (("manifest-one", "manifest-two"), ("manifest-two", "manifest-one")):
        own = report(place / RUN / one)
        assert own["corpus"] == f"{two} -> {one}" and own["protocol"] == "loco+corpusnorm"
        assert sorted(own["labels"]) == sorted(emotions)[1:]  # one of the two lacks the first
        assert own["metrics"]["uar"]["low"] is not None
        with (place / RUN / one / "predictions.csv").open() as file:
            for row in csv.DictReader(file):
                assert row["clip"].startswith(f"{one}/")
                assert sum(float(row[label]) for label in own["labels"]) == pytest.approx(1, abs=1e-4)


def test_pages_of_corpora_that_were_left_out_show_no_map_of_models_that_tested_others(place):
    shown = {name: pages.check(place / RUN / name / "report.html") for name in ("", "manifest-one", "manifest-two")}
    assert "map" in shown[""].sections() and "by corpus" not in shown[""].text  # one fold tests one corpus
    assert not {"map", "curves"} & {*shown["manifest-one"].sections(), *shown["manifest-two"].sections()}


def test_a_run_is_scored_on_another_corpus_without_its_config(place):
    other = ["--config.data.corpus=manifest", "--config.data.dir=far.csv"]
    cli.run("--mode=eval", f"--checkpoint={RUN}", *other, cwd=place)
    own = report(place / "runs" / f"{RUN.rpartition('/')[2]}-on-manifest-far")
    assert own["corpus"] == "manifest-one+manifest-two -> manifest-far"
    assert own["protocol"] == "transfer+corpusnorm" and own["seeds"] == [0, 1] and own["speakers"] == 3
    assert "happy" in own["labels"] and not {"joy", "odd", "calm"} & set(own["labels"])
    assert np.sum(own["confusion"]) == 2 * own["clips"]
    assert any("left out" in note for note in own["notes"])
    shown = pages.check(place / "runs" / f"{RUN.rpartition('/')[2]}-on-manifest-far" / "report.html")
    assert "map" not in shown.sections() and own["corpus"] in shown.text


def test_a_corpus_that_it_was_trained_on_is_refused(place):
    other = ["--config.data.corpus=manifest", "--config.data.dir=two.csv"]
    output = cli.run("--mode=eval", f"--checkpoint={RUN}/seed0-fold1", *other, cwd=place, status=2)
    assert "was trained on manifest" in output
    output = cli.run("--mode=eval", "--checkpoint=voices", *other, cwd=place, status=2)
    assert "--checkpoint=voices holds no trained model" in output


def test_recordings_of_training_are_left_out_under_any_list_and_a_list_of_them_alone_is_refused(place):
    """Fold 1 tests `one`, so it was trained on `two`."""
    (place / "copies").mkdir()
    with (place / "two.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, others in (("again.csv", []), ("mixed.csv", list(csv.DictReader((place / "far.csv").open())))):
        lines = ["file,emotion,speaker"]
        for number, row in enumerate(rows):
            shutil.copy(place / row["file"], place / "copies" / f"{number}.wav")
            lines.append(f"copies/{number}.wav,{row['emotion']},someone{number % 2}")
        lines += [f"{row['file']},{row['emotion']},{row['speaker']}" for row in others]
        (place / name).write_text("\n".join(lines))
    fold = "seed0-fold1"
    score = ["--mode=eval", f"--checkpoint={RUN}/{fold}", "--config.data.corpus=manifest"]
    output = cli.run(*score, "--config.data.dir=again.csv", cwd=place, status=2)
    assert f"of {len(rows)} clips 0 are new to the model" in output
    assert f"{len(rows)} clips are left out: the model was trained on these recordings" in output
    cli.run(*score, "--config.data.dir=mixed.csv", cwd=place)
    own = report(place / "runs" / f"{RUN.rpartition('/')[2]}-{fold}-on-manifest-mixed")
    assert own["speakers"] == 3 and any(
        f"{len(rows)} clips are left out: the model was" in note for note in own["notes"]
    )


def described(corpus, clips, digests):
    return {"trained_on": seen.of_training(corpus, clips, digests)}


def test_speakers_of_training_are_left_out_where_corpora_share_their_people_and_named_where_lists_share_names():
    speech = Corpus("ravdess", ("a", "b"), tuple(Clip(f"{n}", "ab"[n % 2], f"0{n}") for n in range(4)))
    songs = dataclasses.replace(speech, name="ravdess_song", people="ravdess")
    digests, none = ({str(n): 32 * letters[n] for n in range(8)} for letters in ("01234567", "89abcdef"))
    model = described(speech, [0, 1], digests)
    new = seen.unseen([model], songs, np.arange(4), none)
    assert new.clips.tolist() == [2, 3] and new.speakers_alone and "ravdess:00, ravdess:01" in new.notes[0]
    both = seen.unseen([model, described(speech, [2], digests)], songs, np.arange(4), none)
    assert both.clips.tolist() == [3]
    joined_corpus = joined.join([songs, dataclasses.replace(speech, name="tess")])
    joined_digests = {clip.id: 32 * "e" for clip in joined_corpus.clips}
    assert seen.unseen([model], joined_corpus, np.arange(8), joined_digests).clips.tolist() == [2, 3, 4, 5, 6, 7]
    again = seen.unseen([described(joined_corpus, [0, 1], joined_digests)], speech, np.arange(4), none)
    assert again.clips.tolist() == [2, 3]

    chosen = joined.choose(speech, {}, (), ("02", "03"))
    assert seen.unseen([described(chosen, [0, 1], none)], songs, np.arange(4), none).clips.tolist() == [0, 1]

    mine = dataclasses.replace(speech, name="manifest-mine")
    new = seen.unseen([model], mine, np.arange(4), none)
    assert new.clips.tolist() == [0, 1, 2, 3] and "have the same names (00, 01)" in new.notes[0]
    other = dataclasses.replace(mine, clips=tuple(dataclasses.replace(clip, speaker="z") for clip in mine.clips))
    assert seen.unseen([model], other, np.arange(4), none).notes == ()
    new = seen.unseen([model], other, np.arange(4), digests)
    assert new.clips.tolist() == [2, 3] and not new.speakers_alone and "trained on these recordings" in new.notes[0]
    unknown = dataclasses.replace(mine, clips=tuple(dataclasses.replace(clip, speaker="") for clip in mine.clips))
    assert seen.unseen([described(unknown, [0], digests)], unknown, np.arange(4), none).notes == ()

    some = seen.unseen([{}, model], mine, np.arange(4), digests)
    assert some.clips.tolist() == [2, 3] and "earlier version" in some.notes[0]
    for words in ([described(speech, [0, 1], {})], [model]):
        assert "keeps no hashes" in seen.unseen(words, other, np.arange(4), {}).notes[0]


def test_a_namesake_is_noted_only_if_one_of_the_two_stands_in_a_list():
    def of(name, speaker):
        return Corpus(name, ("a", "b"), tuple(Clip(label, label, speaker) for label in "ab"))

    model = {"trained_on": {"speakers": ["ravdess:03"], "recordings": ["0" * 12]}}
    beside_a_list = joined.join([of("emodb", "03"), of("manifest-mine", "x")])
    for corpus, noted in ((of("emodb", "03"), 0), (beside_a_list, 0), (of("manifest-mine", "3"), 1)):
        digests = {clip.id: "f" * 32 for clip in corpus.clips}
        assert len(seen.unseen([model], corpus, np.arange(len(corpus.clips)), digests).notes) == noted


CLIPS = (Clip("0", "a", "s", corpus="x"), Clip("1", "b", "s", corpus="x"), Clip("2", "a", "t", corpus="y"),
         Clip("3", "c", "t", corpus="y"))  # fmt: skip
CORPUS = Corpus("x+y", ("a", "b", "c"), CLIPS)


def test_probabilities_are_those_among_the_labels_of_the_clip_s_corpus_that_were_trained():
    none = np.array([], int)
    split = Split("loco", 1, np.array([0, 1]), none, np.array([2, 3]), shares_speakers=False)
    kept = evaluate.shared_labels(CORPUS, split, np.array([1, 2]))
    assert kept.tolist() == [[True, True, False], [True, False, False]]
    log_p = np.log([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(np.exp(evaluate.among(log_p, kept)), [[0.4, 0.6, 0], [1, 0, 0]])


def test_predictions_of_one_corpus_are_taken_from_the_folds_that_test_it():
    log_p = np.log(np.array([[0.4, 0.6, 0.0], [1.0, 0.0, 0.0]]) + 1e-300)
    log_p[log_p < -600] = -np.inf
    places = (np.array([0, 1]), log_p), (np.array([3]), log_p[1:])
    folds = [Predictions(0, fold, 1, *place, 9, 1.0) for fold, place in enumerate(places, start=1)]
    kept, corpus = evaluate.of_source(folds, CORPUS, "x")
    assert [p.fold for p in kept] == [1] and corpus.labels == ("a", "b") and kept[0].log_p.shape == (2, 2)
