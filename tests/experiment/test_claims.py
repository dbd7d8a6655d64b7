"""Claims: one process at a time has a model's folder, and a dead one has none."""

import json
import subprocess
import sys

import cli
import pytest

from emoflax.errors import UserError
from emoflax.experiment import claims

HOLDER = """
import pathlib, sys, time
from emoflax.experiment import claims
with claims.claim(pathlib.Path(sys.argv[1])):
    print("claimed", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has claimed the folder `model`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "model")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=cli.ROOT, **pipes) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_what_another_process_has_claimed_is_refused_with_its_name_until_that_process_is_killed(holder, tmp_path):
    assert claims.is_claimed(tmp_path / "model")
    with pytest.raises(claims.ClaimedError, match=f"process {holder.pid} on"), claims.claim(tmp_path / "model"):
        raise AssertionError("not reached")
    holder.kill()
    holder.wait()
    assert not claims.is_claimed(tmp_path / "model")
    with claims.claim(tmp_path / "model"):
        assert claims.is_claimed(tmp_path / "model")


def test_a_claim_ends_with_its_block_even_if_that_fails(tmp_path):
    assert not claims.is_claimed(tmp_path / "model")
    with pytest.raises(ValueError, match="in the block"), claims.claim(tmp_path / "model"):
        raise ValueError("in the block")
    assert not claims.is_claimed(tmp_path / "model")


def test_where_locks_do_not_hold_between_hosts_the_one_that_was_overruled_says_so(tmp_path):
    with pytest.raises(UserError, match=r"process 7 on other .* locks do not hold"), claims.claim(tmp_path):
        owner = tmp_path / "claimed_by.json"
        owner.write_text(json.dumps({"host": "other", "pid": 7, "token": "its own"}))


def test_a_block_that_one_process_at_a_time_may_enter_is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with claims.alone(tmp_path, "some.lock"):
            assert (tmp_path / ".some.lock").exists()
