"""A request's multipart body -> the bytes of one file, in memory alone."""

from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from emoflax.inference.records import printable
from emoflax.inference.serve.answers import Refused

_HOW = "send a multipart form whose part `file` is the recording: curl -F file=@speech.wav URL"
_LONGEST_NAME, _MOST_TEXT_BYTES = 120, 10_000
_DRAINED = 4  # times the largest body that is read on and thrown away, so that a refused client can read the answer


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 40  # Starlette would put what is larger than 1 MB into a temporary file


async def read(request: Request, most_bytes: int) -> tuple[bytes, str, str | None]:
    """The recording's bytes, its name, and the words of the part `text`, if there is one.

    Raises:
      Refused: the body is too large, is no such form, or ended early.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        await drain(request, most_bytes)
        raise Refused(415, f"the body is no multipart form; {_HOW}")
    body = _limited(request, most_bytes)
    try:
        form = await _InMemory(
            request.headers, body, max_files=1, max_fields=4, max_part_size=_MOST_TEXT_BYTES
        ).parse()  # fmt: skip
    except ClientDisconnect:
        raise Refused(400, "the request ended before its body did") from None
    except (MultiPartException, ValueError, LookupError, AssertionError) as error:
        message = getattr(error, "message", "") or "it cannot be read"
        await drain(request, most_bytes)
        raise Refused(400, f"the multipart form is damaged ({message.rstrip('.')}); {_HOW}") from error
    file, text = form.get("file"), form.get("text")
    if not isinstance(file, UploadFile):
        raise Refused(400, f"the multipart form has no file in a part named `file`; {_HOW}")
    content = await file.read()
    await file.close()
    name = printable(file.filename or "upload").replace("\\", "/").rpartition("/")[2]
    return content, name[-_LONGEST_NAME:] or "upload", text if isinstance(text, str) else None


async def drain(request: Request, most_bytes: int) -> None:
    """Reads on and keeps nothing: a connection that is closed before its client has sent all loses the answer."""
    left = _DRAINED * most_bytes
    try:
        async for chunk in request.stream():
            left -= len(chunk)
            if left < 0:
                return
    except (ClientDisconnect, RuntimeError):  # RuntimeError: it was read to its end
        return


async def _limited(request: Request, most_bytes: int) -> AsyncIterator[bytes]:
    received, named = 0, request.headers.get("content-length", "0")
    too_large = named.isdigit() and int(named) > most_bytes
    async for chunk in request.stream():
        received += len(chunk)
        if too_large or received > most_bytes:
            await drain(request, most_bytes)
            raise Refused(413, f"the upload is larger than {most_bytes / 1e6:g} MB, the most that is accepted")
        yield chunk
