"""Download one published file over HTTP: resumed after a broken connection, checked, complete or not there."""

import errno
import hashlib
import http.client
import io
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from emoflax.errors import UserError

READ_TIMEOUT_S = 30.0  # an open connection that sends nothing for so long counts as broken
FRUITLESS_TRIES = 5  # tries in a row that bring no new byte
BACKOFF_S = 1.0  # pause before the second try; doubles with each further one
CHUNK_BYTES = 1 << 18


class UnreachableError(UserError):
    """The network or the server cannot deliver the file now; the user's settings are correct."""


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error to raise where the cache could not be written (full disk, no permission)."""
    return UserError(
        f"Cannot write {path}: {error.strerror or error}. Free some space or correct the permissions, "
        "or set --config.data.cache_dir to a folder on another disk."
    )


def fetch(url: str, path: Path, size_bytes: int, md5: str, response_s: float = 30.0) -> Path:
    """Download `url` to `path`, through `path` + '.part', which a later call continues where it ended.

    response_s: longest wait for the server's response, name look-up included.

    Raises UnreachableError when the server cannot be reached or keeps breaking off, UserError when what arrives has
    another size or md5 (the partial file is deleted) or cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if part.exists() and part.stat().st_size > size_bytes:
            part.unlink()
        part.touch()
    except OSError as error:
        raise cannot_write(part, error) from error
    _fill(url, part, size_bytes, response_s)
    with open(part, "rb") as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual != md5:
        part.unlink()
        raise UserError(
            f"The file from {url} has md5 {actual} instead of {md5}. It was deleted; run the command again, "
            "or download the file by hand."
        )
    os.replace(part, path)
    return path


def _fill(url: str, part: Path, size_bytes: int, response_s: float) -> None:
    """Request the missing rest until the partial file is complete, or several tries in a row bring nothing new."""
    longest, fruitless, ever_responded = part.stat().st_size, 0, False
    with tqdm(total=size_bytes, unit="B", unit_scale=True, desc=part.stem) as bar:
        while part.stat().st_size < size_bytes:
            responded, problem = _try_once(url, part, size_bytes, response_s, bar)
            ever_responded |= responded
            if not ever_responded:  # without a network, do not keep the user waiting
                raise UnreachableError(f"{url} cannot be reached ({problem}).")
            have = part.stat().st_size
            fruitless = 0 if have > longest else fruitless + 1
            longest = max(longest, have)
            if fruitless == FRUITLESS_TRIES:
                raise UnreachableError(
                    f"{url} failed {FRUITLESS_TRIES} times in a row ({problem}) after {have} of {size_bytes} bytes. "
                    "Run the command again to continue from there."
                )
            if have < size_bytes:
                time.sleep(BACKOFF_S * 2**fruitless)


def _try_once(url: str, part: Path, size_bytes: int, response_s: float, bar: tqdm) -> tuple[bool, str]:
    """One request for the missing rest. Returns (whether the server responded, the problem if any is still missing)."""
    responded = False
    try:
        with _request(url, part.stat().st_size, response_s) as response:
            responded = True
            _receive(response, url, part, size_bytes, bar)
        return True, "the connection ended early"
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file does not match the server's: start again
            part.write_bytes(b"")
        elif error.code < 500 and error.code != 429:  # a second request would give the same
            raise UnreachableError(f"{url} cannot be downloaded: the server responds '{error}'.") from error
        return True, str(error)
    except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and TLS errors are OSErrors
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return responded, str(reason) or type(reason).__name__


def _request(url: str, have_bytes: int, response_s: float) -> http.client.HTTPResponse:
    """Request the missing bytes and wait at most response_s in all for the response.

    urlopen's own timeout bounds neither the name look-up nor the sum over a host's addresses, which without a
    network can take minutes; hence the thread, a daemon so that it does not delay the program's end.
    """
    headers = {"User-Agent": "emoflax"}
    if have_bytes:
        headers["Range"] = f"bytes={have_bytes}-"
    request = urllib.request.Request(url, headers=headers)
    responses: queue.Queue = queue.Queue()

    def send() -> None:
        try:
            responses.put(urllib.request.urlopen(request, timeout=READ_TIMEOUT_S))
        except Exception as error:  # raised again below, in the thread that waits
            responses.put(error)

    threading.Thread(target=send, daemon=True).start()
    try:
        response = responses.get(timeout=response_s)
    except queue.Empty:
        raise TimeoutError(f"no response within {response_s:g} s") from None
    if isinstance(response, Exception):
        raise response
    return response


def _receive(response: http.client.HTTPResponse, url: str, part: Path, size_bytes: int, bar: tqdm) -> None:
    """Append the response to the partial file; from the start where the server ignores the requested range."""
    have = part.stat().st_size
    if response.status != 206:
        have = 0
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        raise http.client.HTTPException(f"the server sent the range {response.headers.get('Content-Range')}")
    announced = response.headers.get("Content-Length")
    if announced is not None and have + int(announced) != size_bytes:
        raise _wrong_size(url, part, have + int(announced), size_bytes)
    bar.n = have
    with _open(part, "ab" if have else "wb") as file:
        while chunk := response.read1(CHUNK_BYTES):
            have += len(chunk)
            if have > size_bytes:
                raise _wrong_size(url, part, have, size_bytes)
            _write(file, chunk, part)
            bar.update(len(chunk))


def _open(part: Path, mode: str) -> io.FileIO:
    try:
        return io.FileIO(part, mode)  # unbuffered, so that no write is left over for close() to fail at
    except OSError as error:
        raise cannot_write(part, error) from error


def _write(file: io.FileIO, chunk: bytes, part: Path) -> None:
    """Write all of the chunk; with a try of its own, since a full disk must not count as a broken connection."""
    try:
        if file.write(chunk) < len(chunk):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise cannot_write(part, error) from error


def _wrong_size(url: str, part: Path, got_bytes: int, size_bytes: int) -> UserError:
    part.unlink()
    return UserError(
        f"{url} sends {got_bytes} bytes or more where {size_bytes} are expected: a changed file, or a page of "
        "a proxy. Nothing of it was kept; download the file by hand."
    )
