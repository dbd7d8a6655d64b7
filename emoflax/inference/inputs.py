"""What --inputs names: files, folders, globs, standard input; read part by part while the last part is predicted."""

import concurrent.futures
import contextlib
import glob
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from absl import logging

from emoflax.corpora import scan
from emoflax.errors import UserError
from emoflax.inference import recordings
from emoflax.inference.recordings import Recording

STDIN, MICROPHONE = "-", "mic"
# Recordings between two writes to disk: an interruption costs the work on as many; and samples that may be in memory.
PART_FILES, PART_SAMPLES = 64, 1 << 27
_SOUND = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff", b"riff", b".snd", b"ID3", b"\x1aE\xdf\xa3")

Part = dict[pathlib.Path, Recording | UserError]


@contextlib.contextmanager
def opened(patterns: Sequence[str], suffixes: tuple[str, ...]) -> Iterator[dict[pathlib.Path, str]]:
    """Files to read, each with the name that its records get: its path, or '-' for sound from standard input.

    Standard input is a recording if it begins as one, else a list of files, one per line.

    Raises:
      UserError: a pattern without a file.
    """
    with contextlib.ExitStack() as stack:
        named: dict[pathlib.Path, str] = {}
        for pattern in patterns:
            if pattern != STDIN:
                named |= {path: str(path) for path in find_inputs([pattern], suffixes)}
                continue
            head = sys.stdin.buffer.peek(12)[:12]
            if head.startswith(_SOUND) or head[4:8] == b"ftyp" or b"\0" in head:
                logging.info("standard input is a recording; its records are named %r", STDIN)
                named[stack.enter_context(_kept(sys.stdin.buffer))] = STDIN
            else:
                lines = [os.fsdecode(line) for line in sys.stdin.buffer.read().splitlines() if line.strip()]
                logging.info("standard input is a list of %d files", len(lines))
                named |= {pathlib.Path(line): str(pathlib.Path(line)) for line in lines}
        if not named:
            raise UserError("--inputs=-: standard input is empty; pipe in a recording, or names of files, a line each")
        yield named


@contextlib.contextmanager
def _kept(stream: BinaryIO) -> Iterator[pathlib.Path]:
    """A file with what is left of the stream: decoders want to go back in it."""
    with tempfile.TemporaryDirectory(prefix="emoflax-") as folder:
        path = pathlib.Path(folder) / "standard-input"
        with path.open("wb") as file:
            while block := stream.read(1 << 20):
                file.write(block)
        yield path


def find_inputs(patterns: Sequence[str], suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    """Files named by paths, folders (with all folders in them) and glob patterns, each once, sorted within a folder.

    Folders are searched as in training (`scan.search`); one that cannot be listed is returned in the place of its
    files, so that it is reported like a file that cannot be read.

    Raises:
      UserError: a pattern without a file.
    """
    paths: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        path = pathlib.Path(pattern)
        named = [path] if os.path.lexists(path) else map(pathlib.Path, sorted(glob.glob(pattern, recursive=True)))
        files = [file for one in named for file in (_inside(one, suffixes) if one.is_dir() else [one])]
        if not files:
            raise UserError(f"--inputs={pattern}: no {'/'.join(suffixes)} file there; name a file, a folder or a glob")
        paths |= dict.fromkeys(files)
    return list(paths)


def _inside(folder: pathlib.Path, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    result = scan.search(folder, suffixes)
    if sentence := result.sentence(folder):
        logging.info("%s", sentence)
    return [pathlib.Path(name) for name in (*result.files, *result.unreadable)]


def ahead(paths: Sequence[pathlib.Path], at_once: int = PART_FILES) -> Iterator[Part]:
    """`parts`, of which the next one is read while the last one is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        made = parts(paths, at_once)
        coming = reader.submit(next, made, None)
        while (part := coming.result()) is not None:
            coming = reader.submit(next, made, None)
            yield part


def parts(paths: Sequence[pathlib.Path], at_once: int) -> Iterator[Part]:
    """Every path with its recording, or why there is none: so many at once, fewer long ones unless it is all."""
    part: Part = {}
    samples = 0
    for path in paths:
        try:
            part[path] = one = recordings.read(path)
            samples += len(one.samples)
        except UserError as error:
            part[path] = error
        if len(part) >= at_once or (samples > PART_SAMPLES and at_once < len(paths)):
            yield part
            part, samples = {}, 0
    if part:
        yield part
