"""Several devices, and several processes, train the model that one device trains: real processes, on loopback."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import cli
import jax
import numpy as np
import pytest

from emoflax import job
from emoflax.configs import tiny
from emoflax.corpora import synthetic
from emoflax.data import dataset as data
from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.experiment import run as experiment
from emoflax.experiment.features import features_of
from emoflax.experiment.members import members
from emoflax.parallel import mesh as devices
from emoflax.parallel import multihost

RUN = pathlib.Path("tiny-synthetic-speakers5", "seed0-fold1")
# 6 clips in a batch: four devices have two each, and two places are left over. Pooling takes no maximum: its gradient
# depends on which steps equal it bit for bit, and XLA without optimisations (see conftest) computes these twice.
FIELDS = {
    "model.pooling": "mean",
    "data.corpus": "synthetic", "data.dir": "voices", "data.buckets": 1, "split.dev_share": 0.0, "train.epochs": 2,
    "train.batch_size": 6, "model.cnn.channels": (4,), "augment.noise": 0.5, "augment.gain_db": 3.0,
}  # fmt: skip
LONG = 40  # epochs of a training that is cut short


def learn(folder):
    """What --mode=train does, less the report; returns the member's folder and log-probabilities of its test clips."""
    config = tiny.get_config()
    config.update_from_flattened_dict(FIELDS)
    corpus = job.open_corpus(config)
    features = features_of(config, corpus)
    (member,) = members(config, corpus, folder / RUN.parent)
    member.folder.mkdir(parents=True, exist_ok=True)
    experiment.train_member(config, features, member)
    return member.folder, evaluate.predict_member(config, features, member).log_p


def learn_on(count, folder):
    """`learn` in a process with so many devices."""
    script = (
        "import pathlib, sys, jax, numpy\nimport test_mesh as t\n"
        f"assert jax.device_count() == {count}\n"
        "folder, log_p = t.learn(pathlib.Path(sys.argv[1]))\nnumpy.save(folder / 'log_p.npy', log_p)\n"
    )
    environment = cli.ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": str(count)}
    environment["PYTHONPATH"] = os.pathsep.join(
        map(str, (cli.ROOT, cli.ROOT / "tests", cli.ROOT / "tests" / "parallel"))
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], env=environment, check=True, timeout=300)
    return folder / RUN, np.load(folder / RUN / "log_p.npy")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def multihost_flags(process, port, timeout_s=120):
    return ["--multihost", f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}",
            f"--coordinator_timeout_s={timeout_s}"]  # fmt: skip


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small corpus, in the working directory of the module's tests."""
    folder, before = tmp_path_factory.mktemp("mesh"), os.getcwd()
    synthetic.make(folder / "voices", speakers=6, clips_per_emotion=1)
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def one(place):
    return learn(place / "one")


@pytest.fixture(scope="module")
def uninterrupted(place):
    subprocess.run(long_command("whole"), cwd=place, env=cli.ENVIRONMENT, check=True, capture_output=True, timeout=120)
    return place / "whole" / RUN


@pytest.fixture(scope="module")
def four(place):
    return learn_on(4, place / "four")


def test_four_devices_train_what_one_trains(one, four):
    assert losses(four[0]) == pytest.approx(losses(one[0]), rel=1e-5)
    np.testing.assert_allclose(four[1], one[1], rtol=1e-4)


def test_two_processes_of_two_devices_train_what_one_device_trains(place, one):
    port = free_port()
    fields = [f"--config.{field}={value}" for field, value in FIELDS.items()]
    both = [
        subprocess.Popen(
            cli.command(cli.config("tiny"), *fields, "--workdir=two", *multihost_flags(process, port)), cwd=place,
            env=cli.ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "2"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        for process in (0, 1)
    ]  # fmt: skip
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert "2 processes with 4 devices" in printed[0]
    assert losses(place / "two" / RUN) == pytest.approx(losses(one[0]), rel=1e-5)
    # One report, of all test clips, by the first process alone.
    assert "| UAR |" in printed[0] and "UAR" not in printed[1]
    report = json.loads((place / "two" / RUN.parent / "report.json").read_text())
    assert report["clips"] == len(one[1])
    # Both wrote the checkpoint; one device reads it.
    state = evaluate.restore(place / "two" / RUN / "checkpoints").state
    for ours, theirs in zip(jax.tree.leaves(state.params), parameters(one[0]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def long_command(workdir, *flags):
    fields = [f"--config.{field}={value}" for field, value in (FIELDS | {"train.epochs": LONG}).items()]
    return cli.command(cli.config("tiny"), *fields, f"--workdir={workdir}", *flags)


def start(place, workdir, *flags):
    """A process of one device that trains for LONG epochs."""
    environment, pipes = cli.ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "1"}, {"stdout": subprocess.PIPE, "text": True}
    command = long_command(workdir, *flags)
    return subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.STDOUT, **pipes)


def kill_in_the_middle(processes, victim, run):
    """Kills one after three epochs, with all of them at work."""
    log, end = run / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 3):
        assert time.monotonic() < end and not any(process.poll() for process in processes)
        time.sleep(0.02)
    victim.kill()


def lose(place, victim):
    """Two processes, of which one is killed; the other one's status, what it printed, its seconds, and their folder."""
    port, workdir = free_port(), f"lost-{victim}"
    both = [start(place, workdir, *multihost_flags(process, port)) for process in (0, 1)]
    kill_in_the_middle(both, both[victim], place / workdir / RUN)
    killed, other = time.monotonic(), both[1 - victim]
    printed = other.communicate(timeout=90)[0]
    both[victim].communicate()
    return other.returncode, printed, time.monotonic() - killed, place / workdir


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_one_with_a_sentence_and_what_they_saved_one_goes_on_with(
    place, uninterrupted, victim
):
    status, printed, after_s, folder = lose(place, victim)
    assert status == 2 and f"process {victim} is gone" in printed and "Traceback" not in printed, printed
    assert after_s < 60 and len(losses(folder / RUN)) < LONG
    if victim:  # the same for both
        assert start(place, folder.name).wait(120) == 0
        assert losses(folder / RUN) == pytest.approx(losses(uninterrupted), rel=1e-3)


def test_what_one_process_saved_two_go_on_with_to_the_same_end(place, uninterrupted):
    alone, run = start(place, "grown"), place / "grown" / RUN
    kill_in_the_middle([alone], alone, run)
    alone.communicate()
    port = free_port()
    both = [start(place, "grown", *multihost_flags(process, port)) for process in (0, 1)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert losses(run) == pytest.approx(losses(uninterrupted), rel=1e-3)


def parameters(folder):
    return jax.tree.leaves(evaluate.restore(folder / "checkpoints").state.params)


def test_what_four_devices_saved_is_restored_on_one_and_on_two(place, four):
    trained = evaluate.restore(four[0] / "checkpoints")
    assert all(leaf.sharding.device_set == set(jax.devices()) for leaf in jax.tree.leaves(trained.state))
    log_p = learn(place / "four")[1]  # nothing is left to train
    np.testing.assert_allclose(log_p, four[1], rtol=1e-5)
    np.testing.assert_allclose(learn_on(2, place / "four")[1], four[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("variables", "devices"),
    [({}, {1: 1, 2: 2, 3: 2}.get(len(os.sched_getaffinity(0)), 4)), ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
     ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3)],
)  # fmt: skip
def test_a_processor_becomes_two_or_four_devices_if_it_has_the_cores_unless_the_user_says_how_many(variables, devices):
    environment = {name: value for name, value in cli.ENVIRONMENT.items() if name != "JAX_NUM_CPU_DEVICES"}
    script = "import jax\nfrom emoflax.parallel import mesh\nmesh.split_processor()\nprint(jax.device_count())"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment | variables, cwd=cli.ROOT, check=True, capture_output=True,
        timeout=300,
    )  # fmt: skip
    assert int(done.stdout) == devices


def test_one_device_needs_no_mesh():
    assert devices.all_devices() is None
    rows = data.from_arrays(
        [np.ones((3, 2), np.float32)] * 5, None, np.zeros(5, np.int32),
        max_frames=9, max_tokens=1, batch_size=4, buckets=1,
    ).buckets[0]  # fmt: skip
    assert rows.mesh is None and len(rows.rows.label) == 5


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((False, "train", "host:1", None, None), "need --multihost"),
        ((True, "crossval", None, None, None), "not with --mode=crossval"),
        ((True, "train", "host:1", 2, None), "--processes=N and --process=I together"),
        ((True, "train", "host:1", 2, 2), "--process=2 must be from 0"),
        ((True, "train", "host:1", 0, 0), "--processes=0"),
        ((True, "train", "host", 2, 1), "must be HOST:PORT"),
        ((True, "train", "host:99999", 2, 1), "must be HOST:PORT"),
        ((True, "train", None, None, None), "no cluster was recognised"),
    ],
)
def test_flags_that_do_not_go_together_give_one_sentence(flags, sentence, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "OMPI", "KUBERNETES", "JAX_COORD"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(jax.distributed, "initialize", fail_like_jax)  # it refuses where JAX has been used already
    with pytest.raises(UserError, match=sentence):
        multihost.connect(*flags, timeout_s=5)


def fail_like_jax(*_, **__):
    raise ValueError("coordinator_address should be defined.")


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            multihost.connect(True, "train", f"127.0.0.1:{port}", 2, 0, timeout_s=5)


def test_processes_that_never_come_end_the_wait_with_a_sentence(tmp_path):
    flags = multihost_flags(1, free_port(), timeout_s=2)
    printed = cli.run(cli.config("tiny"), *flags, cwd=tmp_path, status=2)
    assert "did not meet within 2 s" in printed and "--coordinator" in printed and "Check failure" not in printed
