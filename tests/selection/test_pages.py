"""Pages are drawn after the scores, and whatever happens to them costs no result."""

import logging

import nested_run
import numpy as np
import pages
import pytest

from emoflax import job
from emoflax.experiment import checks, identity
from emoflax.reporting import page
from emoflax.selection import crossval
from emoflax.selection import pages as drawn
from emoflax.selection.candidates import candidates_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A cross-validation of two candidates, one with attention and one in closed form, and its folder."""
    folder = tmp_path_factory.mktemp("pages")
    fields = {"model.pooling": "attention", "crossval.candidates": CANDIDATES, "seeds": (3,), "report.html": True}
    config, _, _ = nested_run.make(folder, **fields)
    made = job.crossval(config, folder / "runs", record=False)
    return config, folder, made


CANDIDATES = {
    "network": {},
    "statistics": {"model.audio": "", "model.functionals": "ridge", "train.epochs": 1, "model.pooling": "mean_max"},
}


def test_a_cross_validation_has_a_page_of_each_report_with_what_was_chosen(run):
    _, folder, made = run
    nested = next((folder / "runs").glob("*-nested"))
    assert made == nested / "ensemble" / "report.html"
    shown = {name: pages.check(nested / name / "report.html") for name in ("one", "ensemble", "inner/network")}
    assert all("choices" in each.sections() and "statistics" in each.text for each in shown.values())
    assert "map" in shown["one"].sections() and "map" not in shown["ensemble"].sections()
    assert "synthetic voices" in shown["one"].text and "the sound can reach 61 % UAR at best" in shown["one"].text


def test_map_and_attention_come_from_the_models_that_were_scored(run):
    config, folder, _ = run
    corpus = crossval.open_features(config).corpus
    result = crossval.run(config, corpus, next((folder / "runs").glob("*-nested")))
    candidates, members = candidates_of(config), {member.folder.name: member for member in result.inner}
    for name, (scored,) in result.inner_scored.items():
        member = members[f"inner-{name}-seed{scored.seed}"]
        own = {(scored.seed, scored.fold): (candidates[name], member)}
        embedded = drawn.embedded_of(scored, own, crossval.open_features)
        assert embedded.vectors.shape[0] == len(scored.clips) and np.isfinite(embedded.vectors).all()
        assert [clip.id for clip in embedded.clips] == [corpus.clips[i].id for i in scored.clips]
        found = drawn.attention_of(drawn.tested_of([scored], corpus), [scored], corpus, own, crossval.open_features)
        assert bool(found) == (name == "network")
        assert all(curve.mean() == pytest.approx(1, abs=1e-3) for curve in found.values())


def test_a_page_that_cannot_be_drawn_is_a_warning_and_scores_and_report_are_complete(run, monkeypatch, caplog):
    config, folder, made = run
    for name in ("report.html", "report.md", "report.json", "predictions.csv"):
        (made.parent / name).unlink()
    monkeypatch.setattr(page, "write", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING, "absl"):
        assert job.crossval(config, folder / "runs", record=False) is None
    assert "report.html: not drawn (ZeroDivisionError: division by zero)" in caplog.text
    assert not made.exists()
    assert all((made.parent / name).stat().st_size for name in ("report.md", "report.json", "predictions.csv"))


def test_whether_a_page_is_drawn_is_no_part_of_a_run_and_of_no_candidate(run):
    config, _, _ = run
    other = config.copy_and_resolve_references()
    other.report.html, other.report.audio = not config.report.html, False
    described = [{"config": each.to_dict(), "corpus": "c"} for each in (config, other)]
    assert identity.key(described[0]) == identity.key(described[1])
    assert not identity.differences(*described) and not [name for name in identity.unusual(other) if "report" in name]
    with pytest.raises(checks.UserError, match="report.html must be the same for all candidates"):
        checks.check_candidate("a", {"report.html": False}, config)
