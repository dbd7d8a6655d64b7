"""SLURM on this one machine, daemons on loopback: what docs/scaling.md says of `srun` holds.

Needs root and Debian's slurm-wlm and munge; skips where they are not.
"""

import json
import os
import shutil
import socket
import subprocess
import time

import cli
import jax
import numpy as np
import pytest
import shared_run

from emoflax.corpora import synthetic
from emoflax.experiment import evaluate

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo", "squeue")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed (slurm-wlm, munge): {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd and munged are started as root"),
]
# Credentials that end soon: a requeued job waits until its old one has ended, two minutes by default. No cgroups.
SLURM_CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
KillWait=10
ReturnToService=2
MpiDefault=none
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
TASKS = 2
IN_QUEUE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")
FIELDS = (*cli.SMALL_CNN2, "--config.train.epochs=40")


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(condition, timeout_s, what):
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout_s} s: {what()}"
        time.sleep(0.2)
    return value


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of this machine; yields the function that calls one of its commands."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    conf = folder / "slurm.conf"
    cores = len(os.sched_getaffinity(0))
    conf.write_text(
        SLURM_CONF.format(host=socket.gethostname(), ports=free_ports(2), folder=folder, cores=max(cores, TASKS))
    )
    environment = cli.ENVIRONMENT | {
        "SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin", "JAX_NUM_CPU_DEVICES": "1",
    }  # fmt: skip
    munge = ["munged", "--foreground", "--force", *(
        f"--{name}={folder}/munge.{end}"
        for name, end in (("socket", "socket"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"),
                          ("seed-file", "seed"))
    )]  # fmt: skip
    daemons = []

    def start(name, command):
        with open(folder / f"{name}.out", "wb") as out:
            daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))

    def logs():
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(folder.glob("*.out")))

    def call(*command):
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{logs()}"
        return done.stdout.strip()

    def idle():
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() == "idle"

    try:
        start("munged", munge)
        wait_for((folder / "munge.socket").exists, 20, logs)
        start("slurmctld", ["slurmctld", "-D", "-i", "-f", str(conf)])
        start("slurmd", ["slurmd", "-D", "-N", "localhost", "-f", str(conf)])
        wait_for(idle, 60, logs)
        synthetic.make(folder / "voices", speakers=6, clips_per_emotion=1)
        call.folder = folder
        yield call
        subprocess.run(["scancel", "--user=root"], env=environment, timeout=60, check=False)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def submit(slurm, workdir):
    """Submits the documented line; returns the job's number."""
    command = cli.command(cli.config("cnn2"), *FIELDS, "--multihost", f"--workdir={workdir}")
    line = " ".join(f"'{word}'" for word in ["srun", "--nodes=1", f"--ntasks-per-node={TASKS}", *command])
    return slurm(
        "sbatch", "--parsable", "--requeue", "--open-mode=append", f"--ntasks={TASKS}", f"--output={workdir}.log",
        f"--chdir={slurm.folder}", "--wrap", line,
    )  # fmt: skip


def state(slurm, job):
    words = dict(word.split("=", 1) for word in slurm("scontrol", "-o", "show", "job", job).split() if "=" in word)
    return words["JobState"], int(words["Restarts"])


def finish(slurm, job, workdir):
    """Waits until the job has left the queue; returns its state, restarts and all that its tasks printed."""

    def log():
        path = slurm.folder / f"{workdir}.log"
        return f"{state(slurm, job)} {path.read_text()[-4000:] if path.exists() else 'no output'}"

    wait_for(lambda: state(slurm, job)[0] not in IN_QUEUE, 300, log)
    return *state(slurm, job), (slurm.folder / f"{workdir}.log").read_text()


def member(slurm, workdir):
    return next(iter((slurm.folder / workdir).glob("*/seed0-fold1")), slurm.folder / "nowhere")


def losses(slurm, workdir):
    path = member(slurm, workdir) / "metrics.jsonl"
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_middle(slurm, workdir):
    log = slurm.folder / f"{workdir}.log"
    wait_for(lambda: 3 <= len(losses(slurm, workdir)) < 30, 240, lambda: log.read_text()[-4000:])


def parameters(slurm, workdir):
    return jax.tree.leaves(evaluate.restore(member(slurm, workdir) / "checkpoints").state.params)


def assert_same(slurm, workdir, wanted):
    assert losses(slurm, workdir) == losses(slurm, wanted)
    ours, theirs = parameters(slurm, workdir), parameters(slurm, wanted)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our, their)


@pytest.fixture(scope="module")
def uninterrupted(slurm):
    ended, _, printed = finish(slurm, submit(slurm, "whole"), "whole")
    assert ended == "COMPLETED", printed
    assert "2 processes with 2 devices" in printed and printed.count("| UAR |") == 1
    return "whole"


def test_a_requeued_job_resumes_and_its_model_is_that_of_an_uninterrupted_one(slurm, uninterrupted):
    job = submit(slurm, "requeued")
    wait_for_middle(slurm, "requeued")
    slurm("scontrol", "requeue", job)
    ended, restarts, printed = finish(slurm, job, "requeued")
    assert (ended, restarts) == ("COMPLETED", 1), printed
    assert_same(slurm, "requeued", uninterrupted)


def test_a_job_killed_by_scancel_resumes_when_submitted_again(slurm, uninterrupted):
    job = submit(slurm, "killed")
    wait_for_middle(slurm, "killed")
    slurm("scancel", "--signal=KILL", "--full", job)
    ended, _, _ = finish(slurm, job, "killed")
    assert ended != "COMPLETED" and len(losses(slurm, "killed")) < 40
    ended, _, printed = finish(slurm, submit(slurm, "killed"), "killed")
    assert ended == "COMPLETED", printed
    assert_same(slurm, "killed", uninterrupted)


def test_array_tasks_divide_the_models_of_a_cross_validation_and_a_cancelled_one_s_are_taken_over(slurm):
    shared_run.make(slurm.folder)
    one_device = cli.ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "1"}  # as tasks have
    alone = cli.command(*shared_run.MODE, "--workdir=alone")
    subprocess.run(alone, cwd=slurm.folder, env=one_device, check=True, capture_output=True, timeout=240)
    line = " ".join(f"'{word}'" for word in cli.command(*shared_run.SHARED, "--workdir=array"))
    job = slurm(
        "sbatch", "--parsable", f"--array=0-{TASKS - 1}", "--ntasks=1", "--output=array-%a.log",
        f"--chdir={slurm.folder}", "--wrap", line,
    )  # fmt: skip

    def claimed():
        made = [json.loads(path.read_text()) for path in (slurm.folder / "array").glob("*/fold*/*/claimed_by.json")]
        return {owner["SLURM_ARRAY_TASK_ID"] for owner in made} >= {"0", "1"}

    def logs():
        return "\n".join(path.read_text()[-2000:] for path in slurm.folder.glob("array-*.log"))

    wait_for(claimed, 240, logs)
    slurm("scancel", "--signal=KILL", "--full", f"{job}_0")
    wait_for(lambda: "RUNNING" not in slurm("squeue", "-h", "-o", "%T") and not slurm("squeue", "-h"), 300, logs)
    shared_run.assert_same(slurm.folder / "array", slurm.folder / "alone")
