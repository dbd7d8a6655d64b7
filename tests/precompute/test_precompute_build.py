"""A build gives the same bytes whatever happens to it on the way, and says what is wrong when it cannot go on."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from absl import logging

from emoflax.configs.default import get_config
from emoflax.data import shards
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError
from emoflax.features import log_mel
from emoflax.precompute import build

AUDIO = get_config().audio.to_dict()
TEXT = {**get_config().text.to_dict(), "source": "reference"}
PRECOMPUTE = {"workers": 1, "shard_clips": 4, "max_bad_share": 0.2, "runner": ""}
LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes through /proc")

# As a user's script runs: killed, starved and looked at from outside.
SCRIPT = """
import sys
from emoflax.configs.default import get_config
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError
from emoflax.precompute.build import log_mels
from pathlib import Path

if __name__ == "__main__":
    wavs, cache, workers, shard_clips = sys.argv[1:]
    clips = tuple(Clip(path.stem, "x", "s", str(path)) for path in sorted(Path(wavs).glob("*.wav")))
    settings = {"workers": int(workers), "shard_clips": int(shard_clips), "max_bad_share": 0.2, "runner": ""}
    try:
        log_mels(Corpus("toy", ("x",), clips), get_config().audio.to_dict(), cache, settings)
    except UserError as error:
        sys.exit(f"UserError: {error}")
    print([name for name in ("jax", "librosa", "soundfile", "soxr") if name in sys.modules])
"""


def make_wavs(folder, count, seconds=0.4):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        samples = 0.1 * rng.normal(size=round(16_000 * (seconds + 0.05 * (i % 5))))
        soundfile.write(folder / f"{i:04d}.wav", samples, 16_000)
    return folder


def corpus_of(wavs):
    paths = sorted(wavs.glob("*.wav"))
    return Corpus("toy", ("x",), tuple(Clip(path.stem, "x", "s", str(path), text=f"say {path.stem}") for path in paths))


@pytest.fixture(scope="module")
def wavs(tmp_path_factory):
    return make_wavs(tmp_path_factory.mktemp("sound") / "wavs", 10)


@pytest.fixture(scope="module")
def many_wavs(tmp_path_factory):
    return make_wavs(tmp_path_factory.mktemp("sound") / "wavs", 400)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "job.py"
    path.write_text(SCRIPT)
    return path


def start(script, wavs, cache, workers=2, shard_clips=4, **popen):
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, str(script), str(wavs), str(cache), str(workers), str(shard_clips)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}, **popen,
    )  # fmt: skip


def end(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def shards_in(cache):
    return {path: path.stat().st_mtime_ns for path in Path(cache).glob("*/*/shard-*.json")}


def wait_for_shards(process, cache, count):
    """Waits until so many shards are written; the ids of the build's child processes."""
    limit = time.monotonic() + 60
    while len(shards_in(cache)) < count:
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.002)
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def contents(cache):
    """Bytes of every file but those of this machine alone, and what killed builds left."""
    files = (path for path in Path(cache).glob("*/*/*") if path.suffix != ".tmp" and path.name != shards.VERIFIED)
    return {str(path.relative_to(cache)): path.read_bytes() for path in files}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids):
    limit = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < limit, "the workers outlived the build"
        time.sleep(0.02)


def test_shards_hold_what_the_feature_function_gives_for_each_file(wavs, tmp_path):
    corpus = corpus_of(wavs)
    ready = build.log_mels(corpus, AUDIO, str(tmp_path), {**PRECOMPUTE, "workers": 2})
    assert ready.ids == tuple(clip.id for clip in corpus.clips)
    assert [shard["clips"] for shard in ready.manifest["shards"]] == [4, 4, 2]
    assert ready.manifest["corpus"] == "toy" and ready.manifest["settings"].items() >= AUDIO.items()
    for clip in range(len(ready)):
        frames, recording = log_mel.log_mel(corpus.clips[clip].path, **AUDIO)
        np.testing.assert_allclose(ready[clip], frames, atol=1e-3)  # this process's matrix product may use more threads
        assert ready.digests[clip] == recording.digest and ready.lengths[clip] == len(frames)


def test_a_finished_cache_is_read_without_work_and_without_audio_libraries(wavs, tmp_path, script):
    assert end(start(script, wavs, tmp_path))[0] == 0
    before = shards_in(tmp_path)
    status, out, err = end(start(script, wavs, tmp_path))
    assert (status, out.strip()) == (0, "[]")
    assert "clip/s" not in err and shards_in(tmp_path) == before


def test_another_setting_file_or_part_of_a_file_gets_another_folder(wavs, tmp_path):
    corpus, first = corpus_of(wavs), corpus_of(wavs).clips[0]

    def folder(clip=first, shard_clips=4, **changed):
        head = build.log_mel_head(
            dataclasses.replace(corpus, clips=(clip, *corpus.clips[1:])),
            {**AUDIO, **changed}, {**PRECOMPUTE, "shard_clips": shard_clips},
        )  # fmt: skip
        return build.cache_folder(str(tmp_path), head)

    copy = tmp_path / "copy.wav"
    copy.write_bytes(Path(first.path).read_bytes())
    moved = dataclasses.replace(first, path=str(copy))
    os.utime(copy, ns=(0, os.stat(first.path).st_mtime_ns))
    assert folder(moved) == folder() == folder(dataclasses.replace(first, label="y", speaker="t", text="other"))
    os.utime(copy, ns=(0, 1))
    others = [folder(moved)]
    copy.write_bytes(copy.read_bytes() + b"\0\0")
    os.utime(copy, ns=(0, 1))
    others.append(folder(moved))
    copy.unlink()
    others.append(folder(moved))
    for name, value in AUDIO.items():
        others.append(folder(**{name: not value if isinstance(value, bool) else value + type(value)(1)}))
    others += [folder(shard_clips=5), folder(dataclasses.replace(first, id="other"))]
    others += [folder(dataclasses.replace(first, start_s=0.1)), folder(dataclasses.replace(first, end_s=0.3))]
    assert len({folder(), *others}) == 1 + len(others)


def test_features_are_made_anew_once_their_code_has_changed(wavs, tmp_path, monkeypatch):
    corpus = corpus_of(wavs)
    log_mel_module = "emoflax.features.log_mel"
    code = build.log_mel_head(corpus, AUDIO, PRECOMPUTE)["settings"]["code"]
    assert log_mel_module in code and not any("functionals" in name or "stt" in name for name in code)
    first = build.log_mels(corpus, AUDIO, str(tmp_path), PRECOMPUTE)
    changed = {"code": code | {log_mel_module: "0" * 16}}
    monkeypatch.setattr(build, "code_of", lambda function: changed)
    second = build.log_mels(corpus, AUDIO, str(tmp_path), PRECOMPUTE)
    assert first.manifest["settings"] != second.manifest["settings"]
    assert len(list(tmp_path.glob("toy/logmel-*"))) == 2


@LINUX
def test_a_build_killed_twice_and_run_again_equals_one_that_never_was(many_wavs, tmp_path, script):
    assert end(start(script, many_wavs, tmp_path / "whole"))[0] == 0
    for count in np.cumsum(np.random.default_rng().integers(5, 30, size=2)):
        process = start(script, many_wavs, tmp_path / "killed")
        children = wait_for_shards(process, tmp_path / "killed", count)
        process.kill()
        end(process)
        assert len(children) >= 2
        wait_until_gone(children)
        assert not list((tmp_path / "killed").glob("*/*/manifest.json"))
    kept = shards_in(tmp_path / "killed")
    assert end(start(script, many_wavs, tmp_path / "killed"))[0] == 0
    assert kept.items() < shards_in(tmp_path / "killed").items()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@LINUX
def test_a_worker_that_is_killed_ends_the_build_with_a_clear_error(many_wavs, tmp_path, script):
    process = start(script, many_wavs, tmp_path)
    os.kill(wait_for_shards(process, tmp_path, 5)[-1], signal.SIGKILL)
    status, _, err = end(process)
    assert status == 1 and "UserError: A worker process ended before its work was done" in err
    assert "--config.precompute.workers" in err and len(shards_in(tmp_path)) >= 5


@LINUX
def test_an_interrupt_from_the_keyboard_ends_the_build_at_once(many_wavs, tmp_path, tmp_path_factory, script):
    folder = tmp_path_factory.mktemp("linked")  # ten times as many: 400 are done before a signal arrives
    for path in many_wavs.glob("*.wav"):
        for copy in range(10):
            os.link(path, folder / f"{copy}-{path.name}")
    process = start(
        script,
        folder,
        tmp_path,
        workers=1,
        shard_clips=40,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a shell's background ignores it
    children = wait_for_shards(process, tmp_path, 1)
    os.killpg(process.pid, signal.SIGINT)
    status, _, err = end(process)
    assert status != 0 and "KeyboardInterrupt" in err
    wait_until_gone(children)
    assert not list(tmp_path.glob("*/*/*.tmp")) and len(shards_in(tmp_path)) < 100


def test_two_builds_of_one_cache_at_once_do_not_disturb_each_other(wavs, tmp_path, script):
    both = [start(script, wavs, tmp_path / "shared", workers=1, shard_clips=1) for _ in range(2)]
    assert [end(process)[0] for process in both] == [0, 0]
    assert end(start(script, wavs, tmp_path / "alone", workers=1, shard_clips=1))[0] == 0
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_a_disk_that_refuses_more_bytes_is_named_and_finished_shards_are_kept(wavs, tmp_path, script):
    long = tmp_path / "long"
    long.mkdir()
    for path in wavs.glob("*.wav"):
        (long / path.name).write_bytes(path.read_bytes())
    soundfile.write(long / "0009.wav", 0.1 * np.random.default_rng(0).normal(size=16_000 * 60), 16_000)
    limit = (300_000, 300_000)  # bytes a file may have: enough for all but the last shard
    process = start(script, long, tmp_path / "cache", workers=1,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))  # fmt: skip
    status, _, err = end(process)
    assert status == 1 and f"UserError: Cannot write to {tmp_path / 'cache' / 'toy'}" in err
    assert "--config.data.cache_dir" in err and not list(tmp_path.glob("cache/*/*/*.tmp"))
    kept = shards_in(tmp_path / "cache")
    assert len(kept) == 2
    assert end(start(script, long, tmp_path / "cache", workers=1))[0] == 0
    assert kept.items() < shards_in(tmp_path / "cache").items()


def with_bad(wavs, folder, count):
    folder.mkdir()
    for path in wavs.glob("*.wav"):
        (folder / path.name).write_bytes(path.read_bytes())
    for i in range(count):
        (folder / f"{3 * i:04d}.wav").write_text("not sound")
    return corpus_of(folder)


def test_a_few_bad_clips_are_left_out_with_a_counted_warning_and_a_list(wavs, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    corpus = with_bad(wavs, tmp_path / "wavs", 2)
    for _ in range(2):  # the second finds the cache, and must not be silent about what is not in it
        ready = build.log_mels(corpus, AUDIO, str(tmp_path / "cache"), PRECOMPUTE)
        assert ready.ids == tuple(clip.id for clip in corpus.clips if clip.id not in ("0000", "0003"))
        (listed,) = (tmp_path / "cache").glob("*/*/unreadable.jsonl")
        bad = [json.loads(line) for line in listed.read_text().splitlines()]
        assert [(entry["id"], entry["path"]) for entry in bad] == [(c.id, c.path) for c in corpus.clips[0:4:3]]
        assert all("is not sound" in entry["reason"] for entry in bad)
        assert f"2 of 10 clips cannot be used (list: {listed})" in warnings.pop() and not warnings


def test_too_many_bad_clips_stop_the_run_and_a_higher_share_lets_it_go_on(wavs, tmp_path):
    corpus = with_bad(wavs, tmp_path / "wavs", 3)
    with pytest.raises(UserError, match=r"3 of 10 clips cannot be used \(list: .*max_bad_share.*0000.wav is not sound"):
        build.log_mels(corpus, AUDIO, str(tmp_path / "cache"), PRECOMPUTE)
    before = shards_in(tmp_path / "cache")
    ready = build.log_mels(corpus, AUDIO, str(tmp_path / "cache"), {**PRECOMPUTE, "max_bad_share": 0.3})
    assert len(ready) == 7 and shards_in(tmp_path / "cache") == before


def test_a_corpus_of_bad_clips_alone_is_refused_whatever_the_share(wavs, tmp_path):
    corpus = with_bad(wavs, tmp_path / "wavs", 1)
    alone = dataclasses.replace(corpus, clips=corpus.clips[:1])
    with pytest.raises(UserError, match="1 of 1 clips cannot be used"):
        build.log_mels(alone, AUDIO, str(tmp_path), {**PRECOMPUTE, "max_bad_share": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_clips": 0}, "--config.precompute.shard_clips must be at least 1"),
        ({"workers": -1}, "--config.precompute.workers must be at least 0"),
        ({"mels": 0}, "--config.audio.mels must be at least 1"),
    ],
)
def test_impossible_settings_are_named_before_any_work(wavs, tmp_path, change, message):
    settings = {**AUDIO, **PRECOMPUTE, **change}
    with pytest.raises(UserError, match=message):
        build.log_mels(
            corpus_of(wavs), {name: settings[name] for name in AUDIO}, str(tmp_path),
            {name: settings[name] for name in PRECOMPUTE},
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_corpus_without_clips_or_recordings_is_refused(tmp_path):
    with pytest.raises(UserError, match="toy has no clips"):
        build.log_mels(Corpus("toy", ("x",), ()), AUDIO, str(tmp_path), PRECOMPUTE)
    with pytest.raises(UserError, match="toy has no recordings"):
        build.log_mels(Corpus("toy", ("x",), (Clip("a", "x", "s", text="hm"),)), AUDIO, str(tmp_path), PRECOMPUTE)


def test_a_cache_that_cannot_be_written_is_named(wavs, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=f"cannot write into {tmp_path / 'cache' / 'toy'}"):
        build.log_mels(corpus_of(wavs), AUDIO, str(tmp_path / "cache"), PRECOMPUTE)


def test_tokens_are_places_in_a_sorted_lexicon_of_the_whole_corpus(wavs, tmp_path):
    corpus = corpus_of(wavs)
    ready = build.tokens(corpus, TEXT, str(tmp_path), PRECOMPUTE)
    lexicon = ready.manifest["lexicon"]
    assert lexicon == sorted({"say", *(clip.id for clip in corpus.clips)})
    for clip in range(len(ready)):
        assert [lexicon[place] for place in ready[clip]] == ["say", corpus.clips[clip].id]
    before = shards_in(tmp_path)
    build.tokens(corpus, TEXT, str(tmp_path), PRECOMPUTE)
    assert shards_in(tmp_path) == before
    changed = dataclasses.replace(corpus, clips=(dataclasses.replace(corpus.clips[0], text="Hm"), *corpus.clips[1:]))
    assert "hm" in build.tokens(changed, TEXT, str(tmp_path), PRECOMPUTE).manifest["lexicon"]
