"""Decodes recordings of unknown origin in a process of its own, which a damaged file may end.

libsndfile, mpg123, soxr and FFmpeg are written in C, and some files end the process that reads them. Here that is a
small process beside the caller: it is started once (0.3 s), serves one file after the other, and is started anew when a
file ended it; that file is named, and the caller goes on. Samples come back through a pipe, which costs less than 1 ms
for a recording of some seconds. A recording that is bytes in memory goes through the other pipe, and is a file of the
process's memory there: it is written to no disk.

The process is started by its command line rather than by `multiprocessing`, which would import the caller's script a
second time: a script without `if __name__ == "__main__"` would call itself.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from emoflax.errors import UserError
from emoflax.features import plain_wav
from emoflax.features.containers import REMEDY, check_regular

try:
    import resource
except ImportError:  # Windows: without limits
    resource = None
try:
    from fcntl import F_SETPIPE_SZ, fcntl
except ImportError:  # not Linux: pipes stay as they are
    fcntl = None

_CPU_S, _CPU_S_PER_MB = 10.0, 1.0  # that decoding may take; it takes 0.01 s and 0.1 s per MB
_MEMORY_BYTES = 6 << 30  # a recording of `sound_file.MOST_SAMPLES` needs 4 GB while it is put together
_PIPE_BYTES = 1 << 20  # 16 s at 16 kHz in one go; with the usual 64 kB two processes wait in turns
_SERVE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from emoflax.features import untrusted; untrusted.serve()"
)


def decode(path: str, start_s: float = 0.0, end_s: float | None = None) -> tuple[np.ndarray, int]:
    """As `decode.decode`, whose arguments, values and errors it has; also UserError: reading it ended the process."""
    size = check_regular(path)  # a pipe would keep the process waiting
    if plain_wav.is_plain(path, size):
        from emoflax.features import decode as here

        return here.decode(path, start_s, end_s)
    # The process may have been started in another folder.
    return _kept.ask({"path": path, "place": os.path.abspath(path), "start_s": start_s, "end_s": end_s})


def start() -> None:
    """Starts the process, if none is there, without waiting for it: the caller has other things to prepare."""
    _kept.start()


class _Ended(Exception):
    """The process ended while it read a file; status: its exit status, below 0 the signal."""

    def __init__(self, status: int):
        self.status = status


class Decoder:
    """A process that decodes, which is started anew whenever it has ended. Threads that share it wait for each other.

    Attributes:
      restarts: how often a recording ended it.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self._process: _Process | None = None
        self._lock = threading.RLock()

    def decode(self, content: bytes, name: str, most_samples: int) -> tuple[np.ndarray, int]:
        """As `decode.decode` of a file with this content, which messages call `name`. Only on Linux.

        Raises:
          UserError: as of `decode.decode`, or reading it ended the process.
        """
        return self.ask({"path": name, "most_samples": most_samples}, content)

    def ask(self, request: dict[str, Any], content: bytes = b"") -> tuple[np.ndarray, int]:
        """float32 [samples] and the rate in Hz of the request's recording: a file, or `content` where there is any."""
        with self._lock:
            for _ in range(2):
                try:
                    return self.start().ask(request, content)
                except _Ended as ended:
                    self.stop()
                    self.restarts += 1
                    status = ended.status
                    if status != -signal.SIGKILL:  # by whom, nobody knows: once more
                        break
        path = request["path"]
        raise UserError(f"{path} cannot be decoded: reading it {_how(status)}, as damaged files do. {REMEDY}")

    def start(self) -> "_Process":
        """The process; it is not waited for."""
        with self._lock:
            if self._process is None or self._process.owner != os.getpid():
                self._process = _Process()
            return self._process

    def stop(self) -> None:
        if self._process is not None and self._process.owner == os.getpid():
            self._process.stop()
        self._process = None


class _Process:
    """The process, its two pipes, and which process may use them: not one that was forked from it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _SERVE, json.dumps(sys.path)]
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=-1
        )
        if fcntl is not None:
            with contextlib.suppress(OSError):  # more than this user may have
                fcntl(self._process.stdout, F_SETPIPE_SZ, _PIPE_BYTES)
        self.pid = self._process.pid

    def ask(self, request: dict[str, Any], content: bytes) -> tuple[np.ndarray, int]:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None and back is not None
        try:
            to.write(json.dumps([request, len(content)]).encode() + b"\n")
            to.write(content)
            to.flush()
            reply = json.loads(back.readline())
            if "error" in reply:
                raise UserError(reply["error"])
            samples = np.empty(reply["samples"], "<f4")
            if back.readinto(memoryview(samples).cast("B")) != samples.nbytes:
                raise EOFError
        except (OSError, EOFError, ValueError):
            raise _Ended(self._process.wait()) from None
        return samples, reply["rate_hz"]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


_kept = Decoder()
atexit.register(_kept.stop)


def _how(status: int) -> str:
    if status == -getattr(signal, "SIGXCPU", 0):
        return "takes for ever"
    name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"ended the decoding process ({name})"


def serve() -> None:
    """What the process does: a line of JSON in, a line of JSON and samples out, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent answers it
    back = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not get between
    if resource is not None:
        _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
        _limit(resource.RLIMIT_CORE, 0)
    for line in sys.stdin.buffer:
        request, size = json.loads(line)
        named = contextlib.nullcontext(request.pop("place", ""))
        with _in_memory(sys.stdin.buffer.read(size)) if size else named as place:
            _answer(back, request, place)


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path of a file that is nowhere but in memory."""
    number = os.memfd_create("recording")
    try:
        with open(number, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _answer(back: BinaryIO, request: dict[str, Any], place: str) -> None:
    """Decodes the file at `place`, which messages call as the request does."""
    from emoflax.features import decode

    path = request["path"]
    try:
        if resource is not None:
            _limit(resource.RLIMIT_CPU, _cpu_s(place))
        samples, rate_hz = decode.decode(**request | {"path": place})
    except UserError as error:
        _send(back, {"error": str(error).replace(place, path)})
    except MemoryError:
        _send(back, {"error": f"{path} needs more memory to be decoded than there is. {REMEDY}"})
    except Exception as error:  # of a library, over bytes that nobody thought of
        named = f"{type(error).__name__}: {error}".replace(place, path)
        _send(back, {"error": f"{path} is damaged ({named}). {REMEDY}"})
    else:
        _send(back, {"samples": len(samples), "rate_hz": rate_hz}, memoryview(samples).cast("B"))


def _send(back: BinaryIO, reply: dict[str, Any], samples: memoryview | bytes = b"") -> None:
    head = json.dumps(reply).encode() + b"\n"
    left = memoryview(head + samples if len(samples) < _PIPE_BYTES else head)  # one write wakes the reader once
    for part in (left, memoryview(samples)[len(left) - len(head) :]):
        while part:
            part = part[back.write(part) :]


def _cpu_s(path: str) -> int:
    """Processor time in s after which this process is ended, counted from its start."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int(used.ru_utime + used.ru_stime + _CPU_S + _CPU_S_PER_MB * os.stat(path).st_size / 1e6) + 1


def _limit(which: int, value: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
