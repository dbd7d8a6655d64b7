"""Fetch one published file over HTTP: resumed after a broken connection, checked, and never half there."""

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

READ_TIMEOUT_S = 30.0  # silence on an open connection that counts as broken
FRUITLESS_TRIES = 5  # tries in a row that bring no new byte
BACKOFF_S = 1.0  # pause before the second try; doubles with each further one
CHUNK_BYTES = 1 << 18


class UnreachableError(UserError):
    """The network or the server cannot give the file now; nothing is wrong with what the user asked for."""


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error to raise where the cache could not be written (full disk, no permission)."""
    return UserError(
        f"Cannot write {path}: {error.strerror or error}. Free some space or mend the permissions, "
        "or set --config.data.cache_dir to a folder on another disk."
    )


def fetch(url: str, path: Path, size_bytes: int, md5: str, answer_s: float = 30.0) -> Path:
    """Download `url` to `path`, through `path` + '.part', which a later call continues where it ended.

    answer_s: longest wait for the server's first answer, name look-up included.

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
    _fill(url, part, size_bytes, answer_s)
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        part.unlink()
        raise UserError(
            f"What {url} sent has md5 {found} where {md5} is expected. It was deleted; run the command again, "
            "or download the file by hand."
        )
    os.replace(part, path)
    return path


def _fill(url: str, part: Path, size_bytes: int, answer_s: float) -> None:
    """Ask for the missing rest again and again until the partial file is whole, or no try brings anything new."""
    longest, fruitless, ever_answered = part.stat().st_size, 0, False
    with tqdm(total=size_bytes, unit="B", unit_scale=True, desc=part.stem) as bar:
        while part.stat().st_size < size_bytes:
            answered, problem = _try_once(url, part, size_bytes, answer_s, bar)
            ever_answered |= answered
            if not ever_answered:  # off line: no patience, the user is waiting
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


def _try_once(url: str, part: Path, size_bytes: int, answer_s: float, bar: tqdm) -> tuple[bool, str]:
    """One request for what is missing. Returns (the server answered, what went wrong if the file is still short)."""
    answered = False
    try:
        with _ask(url, part.stat().st_size, answer_s) as response:
            answered = True
            _receive(response, url, part, size_bytes, bar)
        return True, "the connection ended early"
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file fits nothing that is there: start anew
            part.write_bytes(b"")
        elif error.code < 500 and error.code != 429:  # asking again would change nothing
            raise UnreachableError(f"{url} cannot be had: the server answers '{error}'.") from error
        return True, str(error)
    except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and TLS errors are OSErrors
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return answered, str(reason) or type(reason).__name__


def _ask(url: str, have_bytes: int, answer_s: float) -> http.client.HTTPResponse:
    """Send the request, asking only for what is missing, and wait at most answer_s in all for the answer.

    urlopen's own timeout bounds neither the name look-up nor the sum over a host's addresses, which without a
    network can take minutes; hence the thread, a daemon so that it cannot hold up the program's end.
    """
    headers = {"User-Agent": "emoflax"}
    if have_bytes:
        headers["Range"] = f"bytes={have_bytes}-"
    request = urllib.request.Request(url, headers=headers)
    answers: queue.Queue = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=READ_TIMEOUT_S))
        except Exception as error:  # raised again below, in the thread that waits
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=answer_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {answer_s:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _receive(response: http.client.HTTPResponse, url: str, part: Path, size_bytes: int, bar: tqdm) -> None:
    """Append the response to the partial file; from the start where the server ignores the range asked for."""
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
    """Write all of the chunk; its own try, since a full disk must not be taken for a broken connection."""
    try:
        if file.write(chunk) < len(chunk):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise cannot_write(part, error) from error


def _wrong_size(url: str, part: Path, got_bytes: int, size_bytes: int) -> UserError:
    part.unlink()
    return UserError(
        f"{url} sends {got_bytes} bytes or more where {size_bytes} are expected: a changed file, or a proxy's own "
        "page. Nothing of it was kept; download the file by hand."
    )
