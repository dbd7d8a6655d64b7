"""Whisper's published weights: on disk, by download, or an error that says which file to put where."""

import contextlib
import hashlib
import http.client
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from emoflax.errors import UserError, WeightsUnavailable, optional

REACH_TIMEOUT_S = 5.0
STALL_TIMEOUT_S = 60.0


def locate(model: str, field: str) -> None:
    """Returns if `whisper.load_model(model)` will find weights, on disk or by download; takes about 5 s at most.

    Args:
      model: an openai-whisper name, or the path of a .pt file.
      field: of the config, which said so.

    Raises:
      WeightsUnavailable: neither; says which file to put where.
      UserError: no such model, no such file.
    """
    if Path(model).is_file():
        return
    url = _address(model, field)
    file = _kept_at(url)
    found = "is missing"
    if file.is_file():
        if sha256(file) == _checksum(url):
            return
        found = "is there, but its checksum is wrong (a download that broke off?)"
    if obstacle := why_unreachable(url):
        raise WeightsUnavailable(
            f"Whisper's weights {file} {found}, and {url} cannot be reached ({obstacle}). Put {file.name} from there "
            f"into the folder {file.parent}, or set {field} to the path of a .pt file."
        )


def file_of(model: str, field: str) -> Path:
    """The .pt file of a model, downloaded if it is not there; raises what `locate` raises."""
    locate(model, field)
    if Path(model).is_file():
        return Path(model)
    # Private, for the public `whisper.load_model(name)` also builds the whole network in PyTorch: encoder, decoder and
    # the checkpoint in memory at once, where only a file is wanted.
    with stall_timeout():
        return Path(openai_whisper()._download(_address(model, field), str(folder()), in_memory=False))


def fingerprint(model: str, field: str) -> str:
    """SHA-256 of a model's .pt file, which a published model's address holds: it need not be on disk."""
    return sha256(Path(model)) if Path(model).is_file() else _checksum(_address(model, field))


def folder() -> Path:
    """Where openai-whisper keeps its downloads."""
    return Path(os.getenv("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))) / "whisper"


def openai_whisper() -> ModuleType:
    """The library, which is optional and takes seconds to import. Raises UserError where it is not installed."""
    with optional("A Whisper model", "whisper"):
        import whisper
    return whisper


def why_unreachable(url: str) -> str:
    """'' if the address answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT_S):
            return ""
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__


@contextlib.contextmanager
def stall_timeout() -> Iterator[None]:
    """Whisper downloads without a timeout of its own, so a connection that went silent would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _address(model: str, field: str) -> str:
    whisper = openai_whisper()
    if model not in whisper.available_models():
        raise UserError(
            f"{field}={model!r} is neither a file nor a Whisper model; models are "
            f"{', '.join(whisper.available_models())}."
        )
    return whisper._MODELS[model]  # private, but the only place that knows address and checksum


def _checksum(url: str) -> str:
    return url.split("/")[-2]


def _kept_at(url: str) -> Path:
    return folder() / url.rsplit("/", 1)[1]
