"""Downloads against a real server on this machine that breaks off, stalls, or sends something else."""

import hashlib
import http.server
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from emoflax.corpora import download
from emoflax.errors import UserError

REPO = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(251)) * 5003  # about 1.2 MB
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `cuts` says after how many bytes each response breaks off, in turn."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.knows_ranges, self.status = CONTENT, [], True, 200
        self.range_error = 0  # bytes by which a response starts beside the requested range
        self.go_on = threading.Event()  # until it is set, a finished response holds its connection open
        self.go_on.set()
        self.ranges: list[str | None] = []  # as requested, one by one

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        requested = self.headers.get("Range")
        self.server.ranges.append(requested)
        if self.server.status != 200:
            return self.send_error(self.server.status)
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and self.server.knows_ranges else 0
        start += self.server.range_error if start else 0
        body = self.server.content[start:]
        if requested and not body:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            size = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)
        self.wfile.flush()
        self.server.go_on.wait()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_S", 0.01)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


def fetch(url: str, path: Path, size: int = len(CONTENT), md5: str = MD5, **how) -> Path:
    return download.fetch(url, path, size, md5, **how)


def test_a_file_arrives_whole_and_leaves_no_part(server, tmp_path):
    path = fetch(server.url, tmp_path / "new" / "file.zip")
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.zip"]


def test_broken_connections_are_resumed_where_they_broke(server, tmp_path):
    server.cuts = [500_003, 300_007]
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=500003-", "bytes=800010-"]


def test_a_later_run_continues_what_an_earlier_one_left(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:700_001])
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.ranges == ["bytes=700001-"]


def test_a_whole_part_is_only_checked(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.ranges == []


def test_a_part_that_is_too_long_is_started_anew(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT + b"more")
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.knows_ranges, server.cuts = False, [500_003]
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=500003-"]


def test_a_wrong_checksum_is_refused_and_nothing_kept(server, tmp_path):
    with pytest.raises(UserError, match="md5") as error:
        fetch(server.url, tmp_path / "file.zip", md5="0" * 32)
    assert not isinstance(error.value, download.UnreachableError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("had", [0, 1000])
@pytest.mark.parametrize("sent", [b"<html>Log in to this network</html>", CONTENT + b"more"])
def test_a_wrong_size_is_refused_and_nothing_kept(server, tmp_path, sent, had):
    server.content = sent
    if had:
        (tmp_path / "file.zip.part").write_bytes(CONTENT[:had])
    with pytest.raises(UserError, match=f"{len(CONTENT)} are expected") as error:
        fetch(server.url, tmp_path / "file.zip")
    assert not isinstance(error.value, download.UnreachableError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status, requests", [(404, 1), (403, 1), (503, download.FRUITLESS_TRIES)])
def test_only_server_errors_are_tried_again(server, tmp_path, status, requests):
    server.status = status
    with pytest.raises(download.UnreachableError, match=str(status)):
        fetch(server.url, tmp_path / "file.zip")
    assert len(server.ranges) == requests


def test_a_connection_that_never_gets_further_is_given_up_but_keeps_what_came(server, tmp_path):
    server.cuts = [400_009] + [0] * 50
    with pytest.raises(download.UnreachableError, match="400009 of"):
        fetch(server.url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:400_009]
    assert len(server.ranges) == 1 + download.FRUITLESS_TRIES


def test_a_server_without_ranges_that_breaks_off_at_random_is_given_up(server, tmp_path):
    server.knows_ranges, server.cuts = False, [500_003, 300_007] * 50
    with pytest.raises(download.UnreachableError):
        fetch(server.url, tmp_path / "file.zip")


def test_bytes_from_another_place_of_the_file_are_never_appended(server, tmp_path):
    server.range_error = -1
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:700_001])
    with pytest.raises(download.UnreachableError, match="range bytes 700000-"):
        fetch(server.url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:700_001]


def test_a_stalled_connection_counts_as_broken(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 0.3)
    server.cuts = [500_003]
    server.go_on.clear()
    started = time.monotonic()
    assert fetch(server.url, tmp_path / "file.zip").read_bytes() == CONTENT
    assert 0.3 < time.monotonic() - started < 5
    assert server.ranges == [None, "bytes=500003-"]


def test_a_refused_connection_is_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    started = time.monotonic()
    with pytest.raises(download.UnreachableError, match="cannot be reached"):
        fetch("http://127.0.0.1:9/file.zip", tmp_path / "file.zip")
    assert time.monotonic() - started < 1


def test_a_server_that_never_responds_is_waited_for_no_longer_than_given(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(download.UnreachableError, match="no response within 0.5 s"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/file.zip", tmp_path / "file.zip", response_s=0.5)
        assert 0.4 < time.monotonic() - started < 2


def test_a_disk_that_refuses_more_bytes_is_not_taken_for_a_broken_connection(server, tmp_path):
    code = (
        "from emoflax.corpora import download\nfrom pathlib import Path\n"
        f"try: download.fetch({server.url!r}, Path({str(tmp_path / 'file.zip')!r}), {len(CONTENT)}, {MD5!r})\n"
        "except download.UserError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=REPO,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000)),
    )
    assert done.stdout.startswith("UserError Cannot write"), done
    assert len(server.ranges) == 1
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:600_000]
