"""What is written into shards comes back, and what is damaged is named."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax.data import shards
from emoflax.data.shards import Failure, Row, ShardSet
from emoflax.errors import UserError
from emoflax.files import sha256

HEAD = {"kind": "logmel", "corpus": "toy", "fingerprint": "f", "settings": {"mels": 3}}


def write(folder, parts, row_shape=(3,), dtype="<f4", **extra):
    shards.make_folder(folder)
    for number, part in enumerate(parts):
        shards.write_shard(folder, number, iter(part), row_shape, dtype)
    shards.write_manifest(folder, len(parts), {**HEAD, **extra})
    return folder


def clips(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [Row(f"c{i}", rng.normal(size=(n, 3)).astype(np.float32), f"d{i}") for i, n in enumerate(lengths)]


@pytest.fixture
def folder(tmp_path):
    rows = clips([5, 0, 7, 2, 11])
    return write(tmp_path / "set", [[*rows[:2], Failure("bad", "bad.wav", "it is silent")], rows[2:], []])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4))
def test_whatever_the_lengths_and_the_cut_into_shards_every_clip_comes_back_exactly(tmp_path_factory, cut):
    rows = clips([length for part in cut for length in part])
    left = iter(rows)
    ready = ShardSet.open(
        write(tmp_path_factory.mktemp("set"), [[next(left) for _ in part] for part in cut]), verify=True
    )
    assert ready.ids == tuple(row.id for row in rows)
    assert ready.digests == tuple(row.digest for row in rows)
    assert len(ready) == len(rows) and ready.lengths.dtype == np.int64
    for clip, row in enumerate(rows):
        assert ready[clip].shape == (ready.lengths[clip], 3)
        np.testing.assert_array_equal(ready[clip], row.values, strict=True)


def test_tokens_come_back_with_their_lexicon(tmp_path):
    rows = [Row("a", np.array([1, 0], np.int32)), Row("b", np.array([], np.int32))]
    ready = ShardSet.open(write(tmp_path, [rows], (), "<i4", lexicon=["no", "yes"]))
    assert [[ready.manifest["lexicon"][place] for place in ready[clip]] for clip in range(2)] == [["yes", "no"], []]
    assert ready[0].dtype == np.int32


def test_a_failed_clip_is_left_out_and_listed(folder):
    ready = ShardSet.open(folder)
    assert ready.ids == ("c0", "c1", "c2", "c3", "c4")
    listed = [json.loads(line) for line in (folder / shards.UNREADABLE).read_text().splitlines()]
    assert listed == list(ready.failures) == [{"id": "bad", "path": "bad.wav", "reason": "it is silent"}]


def test_rows_are_mapped_from_the_file_and_cannot_be_written_to(folder):
    rows = ShardSet.open(folder)[2]
    owner = rows
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert isinstance(owner, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 1


def test_equal_clips_make_equal_bytes(tmp_path):
    first, second = (write(tmp_path / name, [clips([3, 4]), clips([2])]) for name in ("first", "second"))
    names = sorted(path.name for path in first.iterdir())
    assert names == ["manifest.json", "shard-00000.json", "shard-00000.npy", "shard-00001.json", "shard-00001.npy",
                     "unreadable.jsonl"]  # fmt: skip
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("shard-00001.npy", lambda path: path.unlink()),
        ("shard-00001.npy", lambda path: os.truncate(path, path.stat().st_size - 4)),
        ("shard-00001.npy", lambda path: os.truncate(path, 0)),
        ("shard-00001.npy", lambda path: flip(path, 3)),
        ("shard-00001.npy", lambda path: flip(path, -1)),
        ("shard-00001.json", lambda path: path.unlink()),
        ("shard-00001.json", lambda path: flip(path, 20)),
        ("manifest.json", lambda path: os.truncate(path, 30)),
        ("manifest.json", lambda path: path.write_text('{"format": 0}')),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(folder, name, damage):
    ShardSet.open(folder, verify=True)
    damage(folder / name)
    with pytest.raises(UserError, match=rf"{name} is missing or damaged: .*Delete the folder {folder} and run"):
        ShardSet.open(folder, verify=True)


def test_bytes_are_compared_once_and_again_when_a_file_changes(folder, monkeypatch):
    read = []
    monkeypatch.setattr(shards, "sha256", lambda path: read.append(path.name) or sha256(path))
    every = ["shard-00000.npy", "shard-00001.npy", "shard-00002.npy"]
    ShardSet.open(folder)
    assert read == [] and not (folder / shards.VERIFIED).exists()
    ShardSet.open(folder, verify=True)
    ShardSet.open(folder, verify=True)
    assert read == every
    (folder / shards.VERIFIED).write_text("{")  # half-written by an older program, or edited
    ShardSet.open(folder, verify=True)
    assert read == 2 * every
    os.utime(folder / "shard-00001.npy", ns=(0, 1))
    ShardSet.open(folder, verify=True)
    assert read == 3 * every


def test_shards_that_were_compared_and_then_damaged_are_refused_and_so_is_a_replaced_manifest(folder):
    ShardSet.open(folder, verify=True)
    flip(folder / "shard-00001.npy", -1)
    for _ in range(2):  # what failed is not remembered as compared
        with pytest.raises(UserError, match=r"shard-00001.npy is missing or damaged: its checksum is wrong"):
            ShardSet.open(folder, verify=True)
    flip(folder / "shard-00001.npy", -1)
    ShardSet.open(folder, verify=True)
    manifest = json.loads((folder / shards.MANIFEST).read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (folder / shards.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"shard-00000.npy is missing or damaged: its checksum is wrong"):
        ShardSet.open(folder, verify=True)


def test_a_cache_that_cannot_be_written_to_is_compared_each_time(folder, monkeypatch):
    def read_only(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shards, "write_whole", read_only)
    assert len(ShardSet.open(folder, verify=True)) == 5
    assert not (folder / shards.VERIFIED).exists()


def test_a_shard_that_cannot_be_read_is_not_called_damaged(folder):
    path = folder / "shard-00001.npy"
    path.unlink()
    os.symlink(path, path)  # root may read everything, but nobody a link to itself
    with pytest.raises(UserError, match=f"cannot read {path}") as raised:
        ShardSet.open(folder)
    assert "damaged" not in str(raised.value)


def test_a_folder_whose_build_never_ended_is_refused(folder):
    (folder / shards.MANIFEST).unlink()
    with pytest.raises(UserError, match="no finished shards"):
        ShardSet.open(folder)


def test_a_shard_counts_as_done_only_when_it_is_whole(folder):
    assert [shards.clips_done(folder, number) for number in range(4)] == [3, 3, 0, 0]
    os.truncate(folder / "shard-00000.npy", 10)
    os.truncate(folder / "shard-00001.json", 10)
    assert [shards.clips_done(folder, number) for number in range(2)] == [0, 0]


def test_a_clip_that_breaks_off_leaves_nothing_under_the_shards_name(tmp_path):
    def broken():
        yield clips([4])[0]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        shards.write_shard(tmp_path, 0, broken(), (3,), "<f4")
    assert not list(tmp_path.iterdir())


def test_only_stale_leftovers_are_swept(tmp_path):
    for name, age_s in (("old.tmp", 7200), ("young.tmp", 10)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, os.stat(tmp_path / name).st_mtime - age_s))
    shards.make_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["young.tmp"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"cannot write into {tmp_path / 'file' / 'set'}.*--config.data.cache_dir"):
        shards.make_folder(tmp_path / "file" / "set")


def test_reading_shards_needs_numpy_alone():
    code = "import emoflax.data.shards, sys; print([m for m in ('jax', 'librosa', 'soundfile', 'tqdm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
