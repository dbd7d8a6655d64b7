"""The README tells the truth: its table is the ledger's, its commands are the ones that run."""

import pathlib

from emoflax.reporting import ledger

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_results_are_those_of_the_ledger():
    shown = README.split(ledger.BEGIN)[1].split(ledger.END)[0]
    assert shown.strip() == ledger.tables(ledger.read(ROOT / ledger.PATH)).strip()


def test_continuous_integration_calls_the_test_command():
    command = next(line for line in README.splitlines() if "pytest" in line and line.startswith("python3 -m venv"))
    assert command in (ROOT / ".ci" / "run").read_text()


def test_every_config_and_file_that_is_named_exists():
    words = README.replace("`", " ").replace("=", " ").split()
    folders = ("configs", "emoflax", "precompute")
    named = {word for word in words if word.endswith(".py") and word.split("/")[0] in folders}
    assert named and all((ROOT / name).exists() for name in named)


def test_random_and_actor_disjoint_protocols_never_share_a_table():
    entry = {"corpus": "ravdess", "config": "c", "mean": 0.5, "low": 0.4, "high": 0.6, "seeds": [0], "spread": 0.0,
             "minutes": 1.0, "date": "d", "machine": "m", "commit": "c", "command": "x", "ensemble": 1}  # fmt: skip
    entries = [
        entry | {"protocol": protocol, "metric": metric}
        for protocol in ("emobox6", "random_split")
        for metric in ("accuracy", "uar", "macro_f1", "weighted_f1")
    ]
    tables = ledger.tables(entries).split("**ravdess, ")[1:]
    assert len(tables) == 2 and sum("shared between train and test" in table for table in tables) == 1
