"""A report's text: what stands beside every number, and no spread where there is one seed."""

import json

import numpy as np
import pytest

from emoflax.reporting import calibration, metrics, report

LABELS = ("calm", "happy")
CALIBRATED = calibration.summarise([np.log([[0.8, 0.2], [0.4, 0.6]])], [np.array([0, 0])])
FACTS = report.Facts(
    config="c", corpus="toy", notice="", protocol="loso", protocol_note="no speaker is in two parts", folds=(1,),
    seeds=(0,), clips=8, speakers=2, parameters=1234, seconds=2.0, command="python main.py", commit="abc+",
    machine="m", date="d",
)  # fmt: skip


def written(folder, seeds, **changes):
    """report.md of models that differ by seed, each on the same two speakers."""
    confusions = np.array([[[[3 - s, 1 + s], [1, 3]], [[2, 2], [0, 4 - s]]] for s in range(seeds)])
    facts = report.dataclasses.replace(FACTS, seeds=tuple(range(seeds)), **changes)
    return report.write(folder, facts, LABELS, confusions, metrics.summarise(confusions), CALIBRATED)


def columns(text):
    """Cells of every line of the table of scores."""
    begin = next(i for i, line in enumerate(text.splitlines()) if line.startswith("| |"))
    return [len(line.strip("|").split("|")) for line in text.splitlines()[begin : begin + 6]]


def test_one_seed_is_reported_without_a_mean_or_a_list_of_seeds(tmp_path):
    text = written(tmp_path, 1)
    assert "; 1 seed (0); 8 test clips" in text and "mean of seeds" not in text and "each seed" not in text
    assert columns(text) == [3] * 6 and "| UAR | 75.0 % |" in text


def test_several_seeds_are_reported_with_their_mean_and_each_of_them(tmp_path):
    text = written(tmp_path, 2)
    each = json.loads((tmp_path / "report.json").read_text())["metrics"]["uar"]["seeds"]
    assert "; 2 seeds (0, 1); " in text and columns(text) == [4] * 6
    assert len(set(each)) == 2 and f"| {100 * each[0]:.1f}, {100 * each[1]:.1f} |" in text


@pytest.mark.parametrize(
    ("changes", "shown"),
    [({"pretrained": True}, "pretrained weights"), ({"ensemble": 6}, "an ensemble of up to 6 models"),
     ({"word_errors": (1, 40)}, "word error rate of 2.5 %"), ({"notice": "a stand-in"}, "**a stand-in**")],
)  # fmt: skip
def test_what_qualifies_a_result_stands_in_its_report_and_only_there(changes, shown, tmp_path):
    assert shown in written(tmp_path, 1, **changes) and shown not in written(tmp_path, 1)


def test_the_calibration_stands_in_the_report_and_is_drawn(tmp_path):
    assert "expected calibration error 0.400" in written(tmp_path, 1)
    assert json.loads((tmp_path / "report.json").read_text())["calibration"]["ece"] == pytest.approx(0.4)
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_of_models_that_have_epochs_and_of_no_others(tmp_path):
    fitted, trained = tmp_path / "fitted", tmp_path / "trained"
    for folder in (fitted, trained):
        folder.mkdir()
    epoch = {"epoch": 1, "loss": 2.0, "dev_loss": 2.1, "dev_uar": 0.3}
    (trained / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    report.draw_curves(tmp_path / "none.png", "t", [fitted])
    assert not (tmp_path / "none.png").exists()
    report.draw_curves(tmp_path / "curves.png", "t", [fitted, trained])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
