"""The ledger: which code a result is attributed to, which results may share a table, and what `--record` refuses."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import cli
import numpy as np
import pytest

from emoflax.data import speakernorm
from emoflax.errors import UserError
from emoflax.reporting import ledger, metrics

ENTRY = {
    "config": "c", "corpus": "ravdess", "protocol": "emobox6", "seeds": [0], "ensemble": 1, "pretrained": False,
    "command": "python", "minutes": 1.0, "commit": "abc", "machine": "m", "date": "d", "mean": 0.5, "low": 0.4,
    "high": 0.6, "spread": None,
}  # fmt: skip


def entries_of(**changes):
    return [ENTRY | changes | {"metric": metric} for metric in metrics.METRICS]


def git(folder, *arguments):
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", folder, *name, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder, file="README.md"):
    """A git repository with one commit; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(str(folder))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


def copy_package(folder):
    shutil.copytree(cli.ROOT / "emoflax", folder / "emoflax", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def commit_as_seen_from(folder, package, **environment):
    """What a process reports that imports the package in `package` and is started in `folder`."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", "from emoflax.reporting import ledger; print(ledger.commit())"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(package)} | environment, check=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_commit_is_that_of_the_package_wherever_it_is_started(tmp_path):
    checkout = repository(copy_package(tmp_path / "checkout"))
    other = repository(tmp_path / "other")
    head = git(checkout, "rev-parse", "--short", "HEAD")
    assert head != git(other, "rev-parse", "--short", "HEAD")
    assert commit_as_seen_from(other, checkout) == head
    assert commit_as_seen_from(tmp_path, checkout, GIT_DIR=str(other / ".git")) == head


@pytest.mark.parametrize(
    ("file", "mark"),
    [("emoflax/__init__.py", "+"), ("configs/mine.py", "+"), ("configs/results.jsonl", ""), ("README.md", "")],
)
def test_a_plus_marks_code_that_differs_from_the_commit_and_not_the_ledger_or_a_document(
    file, mark, tmp_path, monkeypatch
):
    for name in ("emoflax/__init__.py", "configs/results.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    repository(tmp_path)
    monkeypatch.setattr(ledger, "TOP", tmp_path)
    head = git(tmp_path, "rev-parse", "--short", "HEAD")
    assert ledger.commit() == head
    (tmp_path / file).write_text("changed")
    assert ledger.commit() == head + mark


def test_an_installed_package_gives_its_version_not_the_commit_of_the_project_around_it(tmp_path):
    other = repository(tmp_path / "other")
    site = copy_package(other / ".venv" / "site-packages")
    (site / "emoflax-9.8.7.dist-info").mkdir()
    (site / "emoflax-9.8.7.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: emoflax\nVersion: 9.8.7\n")
    assert commit_as_seen_from(other, site) == "v9.8.7"


def test_code_of_neither_a_repository_nor_an_installation_is_unknown(tmp_path, monkeypatch):
    def missing(name):
        raise ledger.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ledger, "TOP", tmp_path)
    monkeypatch.setattr(ledger.importlib.metadata, "version", missing)
    assert ledger.commit() == "unknown"


def test_results_that_cannot_be_compared_never_share_a_table():
    protocols = ("emobox6", "random_split", f"emobox6{speakernorm.SUFFIX}", "emobox6-inner")
    kinds = [{"protocol": protocol} for protocol in protocols] + [{"pretrained": True}, {"corpus": "meld"}]
    text = ledger.tables([entry for kind in kinds for entry in entries_of(**kind)])
    tables = text.split("| config |")
    assert len(tables) == 1 + len(kinds) and all(table.count("| `c` |") == 1 for table in tables[1:])
    headings = [line for line in text.splitlines() if line.startswith("**")]
    for note in ("pretrained weights", "speakers are shared", speakernorm.NOTE, "no test clip"):
        assert sum(note in heading for heading in headings) == 1


def test_all_pairs_of_corpora_of_one_protocol_stand_in_one_table_and_each_names_its_corpora():
    pairs = ("a -> b", "b -> a")
    text = ledger.tables([entry for corpus in pairs for entry in entries_of(protocol="loco", corpus=corpus)])
    assert text.count("| train -> test | config |") == 1
    assert [line.split("|")[1:3] for line in text.splitlines() if "`c`" in line] == [
        [f" `{p}` ", " `c` "] for p in pairs
    ]


def test_a_pretrained_result_does_not_replace_one_from_scratch_of_the_same_config():
    text = ledger.tables(entries_of(mean=0.31) + entries_of(mean=0.72, pretrained=True))
    assert "| 31.0 [" in text and "| 72.0 [" in text


def test_the_newest_result_of_a_config_is_shown():
    text = ledger.tables(entries_of(mean=0.31) + entries_of(mean=0.32))
    assert "31.0" not in text and "32.0" in text


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({}, "| 1 seed |"),
        ({"seeds": [0, 1, 2], "spread": 0.0241}, "| 3 seeds (UAR spread 2.4) |"),
        ({"seeds": [0, 1, 2], "ensemble": 6}, "| ensemble of 6 |"),
    ],
)
def test_a_spread_is_shown_only_where_several_models_were_scored(changes, cell):
    text = ledger.tables(entries_of(**changes))
    assert cell in text and text.count("spread") == cell.count("spread")


def summary_of(seeds):
    """Scores of models whose predictions differ by seed, over two speakers."""
    matrices = np.random.default_rng(0).integers(1, 9, (seeds, 2, 3, 3))
    return metrics.summarise(matrices)


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_line_per_metric_whose_spread_is_that_of_several_seeds(seeds):
    summary = summary_of(seeds)
    lines = ledger.entries_of(summary, {"config": "c", "seeds": list(range(seeds))})
    assert [line["metric"] for line in lines] == list(metrics.METRICS)
    each = summary["uar"]["seeds"]
    assert lines[0]["mean"] == round(summary["uar"]["mean"], 4)
    assert lines[0]["spread"] == (round(max(each) - min(each), 4) if seeds > 1 else None)
    assert seeds == 1 or lines[0]["spread"] > 0
    assert json.loads(json.dumps(lines)) == lines


def test_the_recorded_results_have_a_spread_exactly_where_several_seeds_were_scored():
    entries = ledger.read(cli.ROOT / ledger.PATH)
    assert entries
    for entry in entries:
        assert (entry["spread"] is not None) == (len(entry["seeds"]) > 1 and entry["ensemble"] == 1), entry


def test_record_without_a_folder_for_the_ledger_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for refused in (ledger.check_recordable, lambda: ledger.append(entries_of())):
        with pytest.raises(UserError, match=f"no folder {tmp_path}/configs; start from the top of a checkout"):
            refused()
    (tmp_path / "configs").mkdir()
    ledger.append(entries_of())
    ledger.append(entries_of(config="d"))
    assert [entry["config"] for entry in ledger.read()] == ["c"] * 4 + ["d"] * 4


def write_tables(folder):
    """`python -m emoflax.reporting.ledger`; returns the exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "emoflax.reporting.ledger"], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(cli.ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout


def fill(folder, page):
    (folder / "configs").mkdir()
    (folder / "configs" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entries_of()))
    (folder / "docs").mkdir()
    pathlib.Path(folder, "docs", "results.md").write_text(page)


def test_the_command_writes_the_tables_between_the_markers_of_the_page_and_leaves_the_rest(tmp_path):
    fill(tmp_path, f"before\n{ledger.BEGIN}\nold\n{ledger.END}\nafter\n")
    assert write_tables(tmp_path) == (0, "")
    text = (tmp_path / "docs" / "results.md").read_text()
    assert text == f"before\n{ledger.BEGIN}\n{ledger.tables(entries_of())}\n{ledger.END}\nafter\n"


@pytest.mark.parametrize("damage", ["docs/results.md", "configs/results.jsonl", "markers", "line"])
def test_what_the_command_misses_is_one_sentence_and_exit_status_2(damage, tmp_path):
    fill(tmp_path, f"{ledger.BEGIN}\n{ledger.END}\n")
    if damage == "markers":
        (tmp_path / "docs" / "results.md").write_text(ledger.BEGIN)
    elif damage == "line":
        (tmp_path / "configs" / "results.jsonl").write_text('{}\n{"torn')
    else:
        (tmp_path / damage).unlink()
    status, output = write_tables(tmp_path)
    assert status == 2 and output.startswith("error: ") and output.count("\n") == 1
    assert {"line": "results.jsonl, line 2", "markers": "docs/results.md must"}.get(damage, damage) in output
