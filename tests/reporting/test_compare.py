"""Comparing runs: on the same clips, speaker by speaker, corrected for how many are compared."""

import json

import cli
import hypothesis
import numpy as np
import pages
import pytest
from hypothesis import strategies as st

from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.reporting import compare

LABELS = ("calm", "happy", "sad")
CORPUS = Corpus(
    "toy", LABELS, tuple(Clip(f"s{s:02d}/{i}", LABELS[i % 3], f"s{s:02d}") for s in range(11) for i in range(9))
)


def write(folder, hit_rate, seeds=(0,), corpus=CORPUS, protocol="loso", rng_seed=0, pretrained=False):
    """A run whose model is right on about `hit_rate` of the clips; returns its folder."""
    rng = np.random.default_rng(rng_seed)
    folder.mkdir()
    truth = np.array([LABELS.index(clip.label) for clip in corpus.clips])
    predictions = []
    for seed in seeds:
        predicted = np.where(rng.random(len(truth)) < hit_rate, truth, (truth + 1) % 3)
        log_p = np.log(np.full((len(truth), 3), 0.1) + 0.7 * np.eye(3)[predicted])
        predictions.append(evaluate.Predictions(seed, 1, 1, np.arange(len(truth)), log_p, 1, 1.0))
    evaluate.write_predictions(folder / "predictions.csv", predictions, corpus)
    facts = {"corpus": corpus.name, "protocol": protocol, "labels": LABELS, "pretrained": pretrained}
    (folder / "report.json").write_text(json.dumps(facts))
    return folder


def test_a_better_run_comes_out_better_on_the_screen_and_in_both_files(tmp_path):
    good, bad = write(tmp_path / "good", 0.9, (0, 1)), write(tmp_path / "bad", 0.5, rng_seed=1)
    text = cli.run("--mode=compare", f"--runs={good},{bad}", f"--workdir={tmp_path / 'out'}", cwd=tmp_path)
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    (gain,) = written["differences"]
    assert gain["a"] == str(good) and 0 < gain["low"] < gain["uar"] < gain["high"] and gain["p_holm"] < 0.01
    assert gain["uar"] == pytest.approx(written["uar"][str(good)] - written["uar"][str(bad)])
    assert (tmp_path / "out" / "compare.md").read_text().strip() in text
    shown = pages.check(tmp_path / "out" / "compare.html")
    assert f"{100 * gain['uar']:+.1f}" in shown.text and len(shown.all("svg")) == 1


def test_the_difference_is_antisymmetric_and_nothing_differs_from_itself(tmp_path):
    runs = [compare.read(write(tmp_path / name, rate, rng_seed=i)) for i, (name, rate) in
            enumerate([("a", 0.8), ("b", 0.6)])]  # fmt: skip
    (a_b,), (b_a,) = compare.differences(runs), compare.differences(runs[::-1])
    assert a_b.uar == pytest.approx(-b_a.uar) and a_b.p == b_a.p
    assert (a_b.low, a_b.high) == pytest.approx((-b_a.high, -b_a.low))
    assert (a_b.speakers_better, a_b.speakers_worse) == (b_a.speakers_worse, b_a.speakers_better)
    (same,) = compare.differences([runs[0], runs[0]])
    assert (same.uar, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_pairing_makes_the_interval_narrower_than_that_of_unrelated_runs(tmp_path):
    """Two runs that fail with the same speakers: resampled apart, the speakers' spread would hide the difference."""
    rng = np.random.default_rng(2)
    hard = rng.uniform(0.2, 0.9, 11)
    a = np.stack([np.diag([9 * h] * 3) + (1 - np.eye(3)) * 4.5 * (1 - h) for h in hard])[None]
    b = np.stack([np.diag([9 * h - 1] * 3) + (1 - np.eye(3)) * (4.5 * (1 - h) + 0.5) for h in hard])[None]
    runs = [compare.Run(name, "toy", "loso", LABELS, {}, x) for name, x in (("a", a), ("b", b))]
    (gain,) = compare.differences(runs)
    assert gain.uar == pytest.approx(1 / 9) and gain.high - gain.low < 0.01


def test_the_table_of_runs_names_the_number_of_seeds_and_what_the_weights_began_with(tmp_path):
    three = compare.read(write(tmp_path / "three", 0.8, (0, 1, 2)))
    one = compare.read(write(tmp_path / "one", 0.7, pretrained=True))
    text = compare.render([three, one], [])
    assert f"| {three.name} | from scratch | {100 * three.uar:.1f} % | 3 seeds |" in text
    assert f"| {one.name} | pretrained | {100 * one.uar:.1f} % | 1 seed |" in text
    assert "means over each run's seeds" in text and "seeds" not in compare.render([one, one], []).split("| run |")[0]


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@hypothesis.settings(max_examples=50, deadline=None)
def test_holm_keeps_the_order_and_lies_between_the_raw_value_and_bonferroni(p):
    corrected = compare.holm(p)
    assert all(raw <= new <= min(1, len(p) * raw) + 1e-12 for raw, new in zip(p, corrected, strict=True))
    assert [corrected[i] for i in np.argsort(p, kind="stable")] == sorted(corrected)


def test_holm_is_the_textbook_example():
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_runs_that_did_not_test_the_same_clips_are_refused_with_the_reason(tmp_path):
    fewer = Corpus("toy", LABELS, CORPUS.clips[:-9])
    other = Corpus("else", LABELS, CORPUS.clips)
    runs = {
        "run": compare.read(write(tmp_path / "run", 0.7)),
        "clips": compare.read(write(tmp_path / "fewer", 0.7, corpus=fewer)),
        "protocol": compare.read(write(tmp_path / "folds", 0.7, protocol="speakers5")),
        "corpus": compare.read(write(tmp_path / "other", 0.7, corpus=other)),
    }
    for reason in ("clips", "protocol", "corpus"):
        with pytest.raises(UserError, match=reason):
            compare.check_comparable([runs["run"], runs[reason]])
    for alone in ([runs["run"]], [runs["run"]] * 2):
        with pytest.raises(UserError, match="two or more"):
            compare.check_comparable(alone)
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere holds no finished run"):
        compare.read(tmp_path / "nowhere")
