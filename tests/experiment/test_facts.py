"""Facts of a run that no file tells."""

import sys

import pytest

from emoflax.experiment import facts


@pytest.mark.parametrize(
    ("typed", "argv", "shown"),
    [
        (["python", "main.py", "--config=cnn2"], ["main.py", "--config=cnn2"], "python main.py --config=cnn2"),
        (["python", "env/bin/emoflax", "--config=a b"], ["env/lib/emoflax/main.py", "--config=a b"],
         "emoflax '--config=a b'"),
        (["python", "-m", "emoflax"], ["env/lib/emoflax/main.py"], "emoflax"),
    ],
    ids=["checkout", "installed", "module"],
)  # fmt: skip
def test_the_command_of_a_report_is_the_one_that_was_typed(typed, argv, shown, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(sys, "argv", argv)
    assert facts.command() == shown
