"""The shard format: the features of a corpus's clips as plain .npy files that are memory-mapped when read.

A folder holds one kind of feature of one corpus:

    shard-00000.npy    rows of its clips, one clip after the other: [sum of lengths, ...] float32, int32 or int16
    shard-00000.json   {ids, lengths, digests, scales, conditions, failures, bytes, sha256} of that file, after it
    ...
    unreadable.jsonl   {id, path, reason} of every clip that gave no features
    manifest.json      {format, kind, corpus, fingerprint, settings, ..., shards: [{file, clips, bytes, sha256,
                       index_sha256}]}; written last, so a folder that has one is complete

Every file appears under its name whole or not at all, and holds nothing but what follows from clips and settings (no
clock, no host): a build that was killed and run again, or written by another engine, gives the same bytes. One file is
of this machine alone:

    .verified.json     {manifest_sha256, files: {file: [bytes, time of change in ns]}} of shards whose checksums matched

While it fits, nobody reads all bytes again to compare checksums. So damage that leaves a file's size and time of change
as they were, such as a decaying disk, goes unnoticed; deleting `.verified.json` has everything compared again.
"""

import contextlib
import hashlib
import json
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from emoflax.audio.channels import CONDITIONS
from emoflax.errors import UserError
from emoflax.files import make_folder as make_plain_folder
from emoflax.files import parse_json, sha256, write_whole

FORMAT = 1
MANIFEST = "manifest.json"
UNREADABLE = "unreadable.jsonl"
VERIFIED = ".verified.json"
_MAPPED_BYTES = 256 * 2**20  # of pages are read before they are let go
_AROUND_BYTES = 2**16  # that Linux maps around what is touched
_STALE_S = 3600.0  # a temporary file that nobody has written to for so long belongs to a killed build


class Row(NamedTuple):
    """Features of one clip: values [length, ...], to be multiplied by scale; digest of the recording, '' for text.

    `conditions`: how it was recorded, in the order of `channels.CONDITIONS`; empty where that was not measured.
    """

    id: str
    values: np.ndarray
    digest: str = ""
    scale: float = 1.0
    conditions: tuple[float, ...] = ()


class Failure(NamedTuple):
    """A clip that gave no features, and why."""

    id: str
    path: str | None
    reason: str


class ShardSet:
    """A complete folder of shards, memory-mapped.

    Attributes:
      manifest: what manifest.json holds.
      ids: ids of the clips, in the order of the corpus, unreadable ones left out.
      lengths: int64 [clips], rows (frames or tokens) of each clip.
      digests: hash of each clip's recording; '' for text.
      scales: float32 [clips], what each clip's rows are to be multiplied by.
      conditions: float32 [clips, conditions], how each clip was recorded; NaN where that was not measured.
      failures: {id, path, reason} of the clips that gave no features.
    """

    def __init__(self, manifest: dict[str, Any], indexes: list[dict[str, Any]], arrays: list[np.ndarray]):
        self.manifest = manifest
        self.ids: tuple[str, ...] = tuple(id for index in indexes for id in index["ids"])
        self.digests: tuple[str, ...] = tuple(digest for index in indexes for digest in index["digests"])
        # Shards written before there were waveforms have no scales.
        scales = [index.get("scales", [1.0] * len(index["ids"])) for index in indexes]
        self.scales = np.array([scale for part in scales for scale in part], np.float32)
        unknown = [np.nan] * len(CONDITIONS)
        measured = [row or unknown for i in indexes for row in i.get("conditions", [[]] * len(i["ids"]))]
        self.conditions = np.array(measured, np.float32).reshape(-1, len(CONDITIONS))
        self.failures: tuple[dict[str, str], ...] = tuple(bad for index in indexes for bad in index["failures"])
        self.lengths = np.array([length for index in indexes for length in index["lengths"]], np.int64)
        self._arrays, self._handed_out = arrays, 0
        self._shards = np.repeat(np.arange(len(indexes)), [len(index["ids"]) for index in indexes])
        starts = [np.cumsum([0, *index["lengths"]])[:-1] for index in indexes]
        self._starts = np.concatenate([np.zeros(0, np.int64), *starts])

    @classmethod
    def open(cls, folder: str | os.PathLike[str], verify: bool = False) -> "ShardSet":
        """Maps a folder's shards.

        Args:
          verify: whether to read every byte and compare checksums (about 1 s per GB), unless that was done before.

        Raises:
          UserError: the build was never finished, or a file is missing or damaged.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).exists():
            raise UserError(f"{folder} holds no finished shards. Run --mode=precompute: it goes on where it stopped.")
        text = _read(folder / MANIFEST)
        manifest = _parse(folder / MANIFEST, text)
        if manifest.get("format") != FORMAT:
            raise _damaged(folder / MANIFEST, f"it is not of format {FORMAT}")
        _check_manifest(folder / MANIFEST, manifest)
        indexes = [_open_index(folder, shard) for shard in manifest["shards"]]
        if verify:
            _verify(folder, manifest, hashlib.sha256(text).hexdigest())
        arrays = [_open_rows(folder, index, s) for s, index in zip(manifest["shards"], indexes, strict=True)]
        return cls(manifest, indexes, arrays)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, clip: int) -> np.ndarray:
        """Rows of a clip, [length, ...], read only: pages are loaded from disk when they are touched."""
        start = self._starts[clip]
        rows = self._arrays[self._shards[clip]][start : start + self.lengths[clip]]
        self._handed_out += rows.nbytes + _AROUND_BYTES
        if self._handed_out > _MAPPED_BYTES:
            self._let_go()
        return rows

    def _let_go(self) -> None:
        """Pages that were read stop counting as this process's memory; whoever touches them again gets them again."""
        self._handed_out = 0
        for array in self._arrays:
            if hasattr(mmap.mmap, "madvise"):  # on Windows the system sees to it
                array.base.base.madvise(mmap.MADV_DONTNEED)


def write_shard(
    folder: Path, number: int, rows: Iterable[Row | Failure], row_shape: tuple[int, ...], dtype: str
) -> None:
    """Writes one shard and its index, holding one clip in memory at a time.

    Args:
      folder: exists already.
      number: place of the shard in the set.
      rows: clips in order; values of a Row are [length, *row_shape].
      row_shape: shape of one frame or token.
      dtype: of the file, with its byte order: '<f4', '<i4', '<i2'.

    Raises:
      UserError: the folder cannot be written to, or the disk is full.
    """
    index: dict[str, Any] = {"ids": [], "lengths": [], "digests": [], "scales": [], "conditions": [], "failures": []}
    with _whole_file(folder / _rows_name(number)) as file:
        _write_header(file, (0, *row_shape), dtype)
        for row in rows:
            if isinstance(row, Failure):
                index["failures"].append(row._asdict())
                continue
            file.write(np.ascontiguousarray(row.values, dtype).tobytes())
            index["ids"].append(row.id)
            index["lengths"].append(len(row.values))
            index["digests"].append(row.digest)
            index["scales"].append(row.scale)
            index["conditions"].append(row.conditions)
        file.seek(0)  # numpy leaves room in the header for any number of rows
        _write_header(file, (sum(index["lengths"]), *row_shape), dtype)
        file.seek(0)
        index["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        index["bytes"] = file.tell()
    _write_json(folder / _index_name(number), index)


def clips_done(folder: Path, number: int) -> int:
    """Clips of a shard that an earlier run has finished; 0 where it has to be written (again)."""
    try:
        index = parse_json((folder / _index_name(number)).read_bytes())
        if (folder / _rows_name(number)).stat().st_size != index["bytes"]:
            return 0
        return len(index["ids"]) + len(index["failures"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def write_manifest(folder: Path, shards: int, head: dict[str, Any]) -> None:
    """Closes a folder of which all shards are written.

    Args:
      folder: of the shards.
      shards: how many there are.
      head: kind, corpus, fingerprint, settings, and what else belongs to the set, such as 'lexicon'.
    """
    entries, failures = [], []
    for number in range(shards):
        text = _read(folder / _index_name(number))
        index = _parse(folder / _index_name(number), text)
        entries.append(
            {
                "file": _rows_name(number),
                "clips": len(index["ids"]),
                "bytes": index["bytes"],
                "sha256": index["sha256"],
                "index_sha256": hashlib.sha256(text).hexdigest(),
            }
        )
        failures += index["failures"]
    with _whole_file(folder / UNREADABLE) as file:
        file.writelines(json.dumps(failure).encode() + b"\n" for failure in failures)
    _write_json(folder / MANIFEST, {"format": FORMAT, **head, "shards": entries})


def make_folder(folder: Path) -> None:
    """Makes the folder, and rids it of what killed builds left half-written."""
    make_plain_folder(folder, "--config.data.cache_dir")
    with _disk_errors(folder):
        for left in folder.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another build at work here may be first
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()


def _rows_name(number: int) -> str:
    return f"shard-{number:05d}.npy"


def _index_name(number: int) -> str:
    return f"shard-{number:05d}.json"


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _whole_file(path) as file:
        file.write(json.dumps(content, sort_keys=True).encode())


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    with _disk_errors(path.parent), write_whole(path) as file:
        yield file


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}. Free space there or choose another folder with "
            f"--config.data.cache_dir; shards that are finished are kept, and the same command goes on from them."
        ) from error


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Nothing else holds the manifest's checksum: a changed one must not be read as something else."""
    kinds = {"file": str, "clips": int, "bytes": int, "sha256": str, "index_sha256": str}
    entries = manifest.get("shards")
    if not isinstance(entries, list) or not isinstance(manifest.get("settings"), dict):
        raise _damaged(path, "its list of shards or its settings are missing")
    for entry in entries:
        if not isinstance(entry, dict) or any(type(entry.get(name)) is not kind for name, kind in kinds.items()):
            raise _damaged(path, "its list of shards is not one")
        if Path(entry["file"]).name != entry["file"] or "\0" in entry["file"]:
            raise _damaged(path, "its list of shards names a file elsewhere")


def _open_index(folder: Path, shard: dict[str, Any]) -> dict[str, Any]:
    path = (folder / shard["file"]).with_suffix(".json")
    text = _read(path)
    if hashlib.sha256(text).hexdigest() != shard["index_sha256"]:
        raise _damaged(path, "its checksum is wrong")
    return _parse(path, text)


def _open_rows(folder: Path, index: dict[str, Any], shard: dict[str, Any]) -> np.ndarray:
    path = folder / shard["file"]
    with _reading(path):
        if path.stat().st_size != shard["bytes"]:
            raise _damaged(path, f"it has {path.stat().st_size} bytes instead of {shard['bytes']}")
        rows = np.load(path, mmap_mode="r")
    if len(rows) != sum(index["lengths"]):
        raise _damaged(path, f"it has {len(rows)} rows instead of {sum(index['lengths'])}")
    return np.asarray(rows)  # still mapped; slicing a plain array costs a third of slicing a memmap


def _verify(folder: Path, manifest: dict[str, Any], manifest_sha256: str) -> None:
    """Compares the checksums of all shards, unless `.verified.json` says that these very files were compared."""
    files = {shard["file"]: _state(folder / shard["file"]) for shard in manifest["shards"]}
    now = {"manifest_sha256": manifest_sha256, "files": files}
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged: as if nothing was compared
        if parse_json((folder / VERIFIED).read_bytes()) == now:
            return
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        with _reading(path):
            if sha256(path) != shard["sha256"]:
                raise _damaged(path, "its checksum is wrong")
    with contextlib.suppress(OSError), write_whole(folder / VERIFIED) as file:  # a cache may be read only
        file.write(json.dumps(now, sort_keys=True).encode())


def _state(path: Path) -> list[int]:
    """Size in bytes and time of change in ns."""
    with _reading(path):
        state = path.stat()
    return [state.st_size, state.st_mtime_ns]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or str(error)) from error
    except OSError as error:  # says nothing about the file's bytes
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: Path) -> bytes:
    with _reading(path):
        return path.read_bytes()


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is no JSON object")
    return content


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(
        f"Shard file {path} is missing or damaged: {problem}. Delete the folder {path.parent} and run the same "
        f"command again: its features are computed anew."
    )
