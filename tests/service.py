"""A service in a process of its own, as a user starts it, and a client of it."""

import contextlib
import dataclasses
import json
import pathlib
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import cli

BOUNDARY = "a-boundary-of-our-own"
# Notes every file that Python opens for writing, in the service and in its decoding processes.
_WATCH = """
import os, sys
_notes = os.open(os.environ["WATCH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def _note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        os.write(_notes, repr(arguments[0]).encode() + b"\\n")
sys.addaudithook(_note)
"""


@dataclasses.dataclass
class Service:
    """Its address, its process, the files that it opened for writing since it serves, and what it logged."""

    url: str
    process: subprocess.Popen
    written: pathlib.Path
    log: pathlib.Path

    def post(self, content: bytes, name: str = "a.wav", query: str = "", headers: dict | None = None, **fields: str):
        """(status, headers, body) of an upload."""
        return self.send(form(content, name, **fields), query, headers)

    def send(self, body: bytes, query: str = "", headers: dict | None = None):
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.request(urllib.request.Request(f"{self.url}v1/predict{query}", body, kind | (headers or {})))

    def get(self, path: str):
        return self.request(urllib.request.Request(self.url + path))

    def request(self, request: urllib.request.Request):
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("metrics")[2].decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def memory_bytes(self) -> int:
        """Of the service and its decoding processes."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        total = 0
        for process in (self.process.pid, *children):
            lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
            total += 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
        return total


def form(content: bytes, name: str, **fields: str) -> bytes:
    """The body of a multipart form with a file and other fields."""
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
             for field, value in fields.items()]  # fmt: skip
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


@contextlib.contextmanager
def started(folder: pathlib.Path, bundle: pathlib.Path, *flags: str) -> Iterator[Service]:
    """Yields a service that runs in `folder` at a free port, and ends it."""
    (folder / "sitecustomize.py").write_text(_WATCH)
    written, log = folder / "written", folder / "log"
    own = {"PYTHONPATH": str(folder), "WATCH": str(written), "PYTHONDONTWRITEBYTECODE": "1"}
    own["NUMBA_CACHE_DIR"] = str(folder)  # else every process tries out where numba could keep something
    command = cli.command("--mode=serve", f"--bundle={bundle}", "--port=0", *flags)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, cwd=folder, env=cli.ENVIRONMENT | own, stderr=errors, **pipes) as process,
    ):
        late = threading.Timer(600, process.kill)  # else a service that hangs would hang the tests
        late.start()
        try:
            line = process.stdout.readline()
            assert line.startswith("serving "), log.read_text()
            written.write_bytes(b"")  # compiled programs, before it served
            yield Service(line.split()[-1], process, written, log)
        finally:
            late.cancel()
            process.kill()


def wait_until(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def predictions(body: bytes) -> list[dict]:
    return json.loads(body)["predictions"]
