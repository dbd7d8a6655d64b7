"""report.html: one file that shows what a run has, leaves out what it has not, and is true to the predictions."""

import dataclasses
import io
import json
import re

import numpy as np
import pages
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from emoflax.data.clip import Clip
from emoflax.reporting import charts, literature, metrics, page, report

LABELS = ("calm", "happy", "sad")
FACTS = report.Facts(
    config="c", corpus="toy", notice="", protocol="loso", protocol_note="no speaker is in two parts", folds=(1,),
    seeds=(0, 1), clips=36, speakers=4, parameters=1234, seconds=2.0, command="python main.py", commit="abc+",
    machine="m", date="d", notes=("**bold** and `code`",),
)  # fmt: skip


def made(folder, speakers=4, seeds=2, **clip_fields):
    """Evidence of random predictions of 9 clips of each speaker; the recordings last 1 to 8 s."""
    rng = np.random.default_rng(0)
    clips = []
    for i in range(9 * speakers):
        path = folder / f"{i}.wav"
        if i < 24:
            soundfile.write(path, 0.1 * rng.normal(size=16_000 * (1 + i % 8)), 16_000)
        fields = {"id": f"s{i // 9}/{i}", "corpus": f"c{i % 2}"} | clip_fields
        clips.append(Clip(label=LABELS[i % 3], speaker=f"s{i // 9}", path=str(path), text="well, yes", **fields))
    count = len(clips)
    logits = rng.normal(size=(seeds * count, 3)) * 2
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    label = np.tile(np.arange(count) % 3, seeds)
    seed, fold = np.repeat(np.arange(seeds), count), np.ones(seeds * count, int)
    return page.Evidence(page.Tested(LABELS, tuple(clips) * seeds, seed, fold, label, log_p))


def written(folder, evidence, **changes):
    tested = evidence.tested
    speaker = np.array([clip.speaker for clip in tested.clips])
    predicted = tested.log_p.argmax(1)
    confusions = np.stack([
        metrics.speaker_confusions(tested.label[own], predicted[own], speaker[own], 3)
        for own in (tested.seed == seed for seed in np.unique(tested.seed))
    ])  # fmt: skip
    facts = dataclasses.replace(FACTS, **changes)
    return pages.check(page.write(folder, facts, confusions, metrics.summarise(confusions), evidence))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A page with all that there can be."""
    folder = tmp_path_factory.mktemp("full")
    evidence = made(folder)
    log = folder / "seed0-fold1"
    log.mkdir()
    epochs = [{"epoch": e, "loss": 2 / e, "dev_loss": 3 / e, "dev_uar": e / 9} for e in (1, 2, 3)]
    (log / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
    clips = evidence.tested.clips[:36]
    vectors = np.random.default_rng(1).normal(size=(36, 5))
    evidence = dataclasses.replace(
        evidence, folders={"seed 0": log}, epochs={"seed 0": 3}, embedded=page.Embedded(clips, vectors, "36 clips"),
        attention={clip.id: np.linspace(0, 2, 50) for clip in clips}, folds=(1, 2),
        candidates={"a": [page.Cell(0.5, True, 0.7), page.Cell(0.4, False, 0)], "b": [page.Cell(None, False, 0.3)] * 2},
    )  # fmt: skip
    return evidence, written(folder, evidence)


def test_a_page_shows_scores_provenance_choices_charts_and_mistakes(full):
    evidence, shown = full
    assert shown.sections() == ["scores", "how", "choices", "confusion", "speakers", "probabilities", "curves", "map",
                                "mistakes"]  # fmt: skip
    for text in (
        "abc+",
        "no speaker is in two parts",
        "1,234 parameters",
        "chosen epoch",
        "chance: 33.3 %",
        "by corpus",
    ):
        assert text in shown.text, text
    assert "<strong>bold</strong> and <code>code</code>" in shown.source
    tested = evidence.tested
    wrong = (tested.log_p.argmax(1) != tested.label)[:36]
    assert f"{wrong.sum()} of 36 clips with seed 0 were taken" in shown.text
    assert len(shown.all("polyline")) == len(shown.all("img")) > 0


def test_curves_without_dev_clips_say_that_the_last_epoch_is_taken_and_show_no_choice(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0, "dev_uar": null, "dev_loss": null}\n')
    evidence = dataclasses.replace(made(tmp_path), folders={"seed 0": tmp_path}, epochs={"seed 0": 1})
    shown = written(tmp_path, evidence)
    assert "no dev clips: the last epoch is taken" in shown.text and "There are no dev clips" in shown.text
    assert "chosen epoch" not in shown.text and "Dev clips choose" not in shown.text


def test_the_cells_of_the_confusion_matrix_count_every_prediction_once(full):
    _, shown = full
    matrix = shown.source.split('class="matrix"')[1].split("</table>")[0]
    counts = [int(number) for number in re.findall(r"<small>(\d+)</small>", matrix)]
    assert sum(counts) == 72 and "every clip counts 2 times" in shown.text


def test_mistakes_are_the_most_confident_ones_and_then_those_whose_truth_was_least_expected(full):
    tested = full[0].tested
    confident, unexpected = page.mistakes(tested)
    p, wrong = np.exp(tested.log_p), np.flatnonzero((tested.log_p.argmax(1) != tested.label) & (tested.seed == 0))
    assert list(p[confident].max(1)) == sorted(p[wrong].max(1), reverse=True)[: page.MISTAKES]
    rest = set(wrong) - set(confident)
    truth = p[np.arange(len(p)), tested.label]
    assert list(truth[unexpected]) == sorted(truth[list(rest)])[: page.MISTAKES]


def test_sounds_are_those_of_the_clips_as_far_as_they_are_on_disk_and_six_seconds_at_most(full):
    evidence, shown = full
    there = [evidence.tested.clips[place] for places in page.mistakes(evidence.tested) for place in places
             if int(evidence.tested.clips[place].id.split("/")[1]) < 24]  # fmt: skip
    played = [soundfile.info(io.BytesIO(pages.decoded(one["src"]))) for one in shown.all("audio")]
    lengths = [min(6, soundfile.info(clip.path).duration) for clip in there]
    assert [info.duration for info in played] == pytest.approx(lengths, abs=0.15) and 6 in lengths
    assert {info.subtype for info in played} == {"OPUS"}
    assert shown.text.count("no recording to show") == 2 * page.MISTAKES - len(there)


def test_sounds_are_left_out_if_not_wanted_and_spectrograms_stay(tmp_path):
    shown = written(tmp_path, dataclasses.replace(made(tmp_path), audio=False))
    assert not shown.all("audio") and shown.all("img") and "Sounds are" not in shown.text


def test_what_a_run_has_not_is_left_out(tmp_path):
    """One speaker, one seed, no recordings, no epochs, no map."""
    evidence = made(tmp_path, speakers=1, seeds=1)
    clips = tuple(dataclasses.replace(clip, path=None) for clip in evidence.tested.clips)
    evidence = dataclasses.replace(evidence, tested=dataclasses.replace(evidence.tested, clips=clips))
    shown = written(tmp_path, evidence, notes=())
    assert shown.sections() == ["scores", "how", "confusion", "probabilities", "mistakes"]
    assert "no interval: one speaker" in shown.text and not shown.all("img")


def test_a_run_without_a_mistake_has_no_section_of_them(tmp_path):
    evidence = made(tmp_path)
    tested = evidence.tested
    log_p = np.log(np.full((len(tested.label), 3), 0.1) + 0.7 * np.eye(3)[tested.label])
    shown = written(tmp_path, dataclasses.replace(evidence, tested=dataclasses.replace(tested, log_p=log_p)))
    assert "mistakes" not in shown.sections()


def test_names_are_text_whatever_they_hold(tmp_path):
    evil = '<script>alert("1")</script>&\udcff'
    shown = written(tmp_path, made(tmp_path, id=evil, corpus=evil), config=evil, notes=(f"**{evil}**",))
    assert "<script>" not in shown.source and '<script>alert("1")' in shown.text


def test_published_results_stand_beside_a_score_of_the_same_corpus_and_protocol_alone():
    assert {one.model for one in literature.beside("ravdess", "emobox6")} >= {"Whisper-large-v3", "WavLM-L"}
    for corpus, protocol in (("ravdess", "emobox6+speakernorm"), ("ravdess", "random5"), ("emovo", "emobox6")):
        assert not literature.beside(corpus, protocol)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 60), st.integers(2, 5), st.integers(0, 2**32 - 1), st.booleans())
def test_areas_under_roc_are_those_of_scikit_learn_ties_included(clips, classes, seed, ties):
    rng = np.random.default_rng(seed)
    p, label = rng.dirichlet(np.ones(classes), clips), rng.integers(0, classes, clips)
    p = np.round(p, 1) if ties else p
    found = {c: area for c, (_, _, area) in charts.areas_under_roc(p, label).items()}
    there = [c for c in range(classes) if 0 < (label == c).sum() < clips]
    assert found == pytest.approx({c: roc_auc_score(label == c, p[:, c]) for c in there})


def test_principal_components_find_the_plane_that_points_lie_in():
    rng = np.random.default_rng(0)
    plane = rng.uniform(-1, 1, size=(80, 2))
    place, explained = charts.principal_components(plane @ rng.normal(size=(2, 30)) + 5)
    assert explained.sum() == pytest.approx(1)
    fit = np.linalg.lstsq(place, plane - plane.mean(0), rcond=None)[0]
    np.testing.assert_allclose(place @ fit, plane - plane.mean(0), atol=1e-6)
