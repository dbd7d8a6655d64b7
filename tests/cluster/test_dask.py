"""Beam on Dask on this one machine: a scheduler and two workers in processes of their own.

Needs `pip install apache-beam==2.77.0 dask distributed`; skips where they are not.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time

import cli
import pytest

from emoflax.corpora import synthetic

for package in ("apache_beam", "dask", "distributed"):
    pytest.importorskip(package)
SPEAKERS, SHARD_CLIPS = 8, 4  # 128 clips in 32 shards


def flags(cache):
    return (
        cli.config("tiny"), "--mode=precompute", "--config.data.corpus=manifest", "--config.data.dir=voices/clips.csv",
        f"--config.precompute.shard_clips={SHARD_CLIPS}", "--config.audio.contours=True",
        f"--config.data.cache_dir={cache}",
    )  # fmt: skip


def contents(cache):
    """Name -> bytes of every file but the note that its shards were verified, which holds times of change."""
    files = (path for path in cache.glob("*/*/*") if not path.name.startswith("."))
    return {str(path.relative_to(cache)): path.read_bytes() for path in files}


@contextlib.contextmanager
def cluster(folder):
    """Yields the workers' processes, and the address of their scheduler."""
    environment = cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT), "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    started, file = [], folder / "scheduler.json"

    def start(*arguments):
        with open(folder / "dask.log", "ab") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]], cwd=folder,
                    env=environment, stdout=log, stderr=log,
                )
            )  # fmt: skip

    try:
        start("scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={file}")
        end = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < end, (folder / "dask.log").read_text()
            time.sleep(0.2)
        for _ in range(2):
            start("worker", f"--scheduler-file={file}", "--no-nanny", "--no-dashboard", "--nthreads=1")
        yield started[1:], file
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus and its shards by local processes."""
    folder = tmp_path_factory.mktemp("dask")
    synthetic.make(folder / "voices", speakers=SPEAKERS, clips_per_emotion=2)
    os.rename(folder / "voices" / synthetic.INDEX, folder / "voices" / "clips.csv")
    cli.run(*flags("local"), cwd=folder)
    return folder


@pytest.mark.parametrize("killed", [False, True])
def test_dask_workers_write_the_shards_of_local_processes_also_if_one_is_killed(place, killed):
    cache = place / f"dask-{killed}"
    with cluster(place) as (workers, file):
        options = ["--runner=DaskRunner", "--", f"--dask_scheduler_file={file}", "--dask_npartitions=32"]
        with open(place / "command.log", "wb") as log:
            command = subprocess.Popen(
                cli.command(*flags(cache.name), *options), cwd=place, env=cli.ENVIRONMENT, stdout=log, stderr=log
            )
            if killed:
                while len(list(cache.rglob("shard-*.json"))) < 3:
                    assert command.poll() is None, (place / "command.log").read_text()
                    time.sleep(0.02)
                workers[0].kill()
                assert len(list(cache.rglob("shard-*.json"))) < 32, "it was over before a worker was killed"
            assert command.wait(240) == 0, (place / "command.log").read_text() + (place / "dask.log").read_text()
    (place / "scheduler.json").unlink(missing_ok=True)
    assert len(contents(cache)) > 60 and contents(cache) == contents(place / "local")
    shutil.rmtree(cache)
