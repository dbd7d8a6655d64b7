"""Damaged recordings and manifests: no traceback, no hang, bounded memory, and nothing predicted from half a file.

$EMOFLAX_FUZZ=2000,1000 tries that many mutated recordings and manifests; without it 200 and 100.
"""

import contextlib
import os
import pathlib
import random
import time
from collections import Counter

import av
import damaged_files
import numpy as np
import pytest

from emoflax import corpora
from emoflax.configs import tiny
from emoflax.errors import UserError
from emoflax.features import untrusted
from emoflax.inference import recordings

RECORDINGS, MANIFESTS = map(int, os.environ.get("EMOFLAX_FUZZ", "200,100").split(","))
LONGEST_S, MOST_BYTES = 20.0, 2 << 30


def by_ffmpeg(path) -> float:
    """Seconds that FFmpeg decodes, up to the file's end or the first error."""
    seconds = 0.0
    with contextlib.suppress(av.error.FFmpegError, IndexError, ValueError), av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            seconds += frame.samples / frame.sample_rate
    return seconds


class Memory:
    """The most that this process takes from here on beyond what it has, or that a decoding process has.

    Not by `getrusage`: a child's figure begins with that of the process that it was forked from.
    """

    def __init__(self) -> None:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: earlier tests had theirs
        self.begin, self.decoder = self._bytes("self", "VmRSS"), 0

    def look(self) -> None:
        """At the decoding process, which the next file may end."""
        if untrusted._kept._process is not None:
            with contextlib.suppress(OSError, StopIteration):  # it has ended
                self.decoder = max(self.decoder, self._bytes(untrusted._kept._process.pid, "VmHWM"))

    def peak_bytes(self) -> int:
        self.look()
        return max(self._bytes("self", "VmHWM") - self.begin, self.decoder)

    @staticmethod
    def _bytes(process: int | str, field: str) -> int:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def test_whole_files_are_read_by_both_and_to_their_end(tmp_path):
    for path in damaged_files.write_recordings(tmp_path):
        samples, rate_hz = untrusted.decode(str(path))
        assert len(samples) / rate_hz == pytest.approx(damaged_files.SECONDS, abs=0.12), path
        assert by_ffmpeg(path) == pytest.approx(damaged_files.SECONDS, abs=0.12), path


def test_no_damaged_recording_ends_or_stops_the_command_or_is_predicted_from_a_part(tmp_path):
    paths = damaged_files.write_recordings(tmp_path)
    whole, config, counts = [path.read_bytes() for path in paths], tiny.get_config(), Counter()
    recordings.sound_of(config, recordings.read(paths[0]))  # imports and compiles, once in a process
    memory = Memory()
    for number in range(RECORDINGS):
        rng = random.Random(number)
        place = rng.randrange(len(paths))
        mutated = tmp_path / f"mutated-{number}{paths[place].suffix}"
        mutated.write_bytes(damaged_files.mutate(whole[place], rng, whole))
        begin = time.perf_counter()
        read, failures = [], []
        try:
            read.append(recordings.sound_of(config, recordings.read(mutated)))
        except UserError as error:
            failures.append(str(error))
        assert time.perf_counter() - begin < LONGEST_S, mutated
        assert len(read) + len(failures) == 1 and all(str(mutated) in failure for failure in failures)
        memory.look()
        counts["ended a process" if "decoding process" in "".join(failures) else "refused"] += len(failures)
        for one in read:
            counts["read"] += 1
            assert np.isfinite(one).all()
            samples, rate_hz = untrusted.decode(str(mutated))
            assert by_ffmpeg(mutated) > 0.98 * len(samples) / rate_hz - 0.1, (number, paths[place].name, counts)
        mutated.unlink()
    print(RECORDINGS, "recordings:", dict(counts))
    assert memory.peak_bytes() < MOST_BYTES


def test_no_damaged_manifest_gives_a_traceback_or_clips_that_are_not_there(tmp_path):
    whole, counts = damaged_files.write_manifests(tmp_path), Counter()
    memory = Memory()
    for number in range(MANIFESTS):
        rng = random.Random(number)
        path = tmp_path / f"clips-{number}.{rng.choice(('csv', 'csv', 'jsonl'))}"
        path.write_bytes(damaged_files.mutate_manifest(rng.choice(whole), rng))
        begin = time.perf_counter()
        try:
            corpus = corpora.load("manifest", str(path), str(tmp_path / "cache"))
            assert len(corpus.labels) > 1 and all(os.path.isfile(clip.path) for clip in corpus.clips if clip.path)
            counts["read"] += 1
        except UserError as error:
            assert path.name in str(error) and len(str(error)) < 2000
            counts["refused"] += 1
        assert time.perf_counter() - begin < LONGEST_S
        path.unlink()
    print(MANIFESTS, "manifests:", dict(counts))
    assert memory.peak_bytes() < MOST_BYTES
