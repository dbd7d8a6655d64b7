"""Models divided among processes that run one command: the results of one process, whoever dies."""

import json
import shutil
import subprocess
import time

import cli
import pytest
import shared_run

from emoflax.errors import UserError
from emoflax.experiment import checks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus, a config, and the run of one process in `one`."""
    folder = tmp_path_factory.mktemp("shared")
    shared_run.make(folder)
    cli.run(*shared_run.MODE, "--workdir=one", cwd=folder)
    return folder


def start(place, workdir):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = cli.command(*shared_run.SHARED, f"--workdir={workdir}")
    return subprocess.Popen(command, cwd=place, env=cli.ENVIRONMENT, **pipes)


def owners(run):
    """Model -> the process that trained it last."""
    return {path.parent: json.loads(path.read_text())["pid"] for path in run.glob("fold*/*/claimed_by.json")}


def test_a_model_of_a_killed_process_is_taken_over_and_all_results_are_those_of_one_process(place):
    run = place / "both" / shared_run.RUN
    first, second = start(place, "both"), start(place, "both")
    end = time.monotonic() + 120
    while not (mine := [model for model, pid in owners(run).items() if pid == first.pid]):
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert not list(mine[0].glob("*.npz"))  # in the midst of its work
    printed = second.communicate(timeout=240)[0]
    assert second.returncode == 0, printed
    assert owners(run)[mine[0]] == second.pid
    shared_run.assert_same(place / "both", place / "one")


def test_processes_share_the_models_and_one_of_them_reports(place):
    run = place / "shared" / shared_run.RUN
    shutil.copytree(place / "one", place / "shared")
    for model in run.glob("fold*/*fast*"):
        shutil.rmtree(model)
    both = [start(place, "shared"), start(place, "shared")]
    printed = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert sorted("another process writes the reports" in text for text in printed) == [False, True], printed
    assert {process.pid for process in both} <= set(owners(run).values())
    shared_run.assert_same(place / "shared", place / "one")


def test_populations_are_not_shared():
    from emoflax.configs import tiny

    config = tiny.get_config()
    config.crossval.shared, config.train.population = True, 4
    with pytest.raises(UserError, match="single models"):
        checks.prepare(config)
