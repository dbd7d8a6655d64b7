"""--mode=serve: loads and warms up a model, binds an address, serves until SIGTERM or Ctrl-C."""

import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import numpy as np
from absl import logging

from emoflax.errors import UserError, optional
from emoflax.inference import model as inference
from emoflax.inference.model import Model
from emoflax.inference.serve.settings import Settings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST_CONNECTIONS, _BACKLOG = 1000, 1024
_MOST_MESSAGE_BYTES = 1 << 20  # of a stream: 30 s at 16 kHz


def run(
    path: str | None, host: str, port: int, settings: Settings, wrap: Callable[[Model], Model] = lambda m: m
) -> None:
    """Serves a bundle, or whatever `emoflax.load` takes; returns after SIGTERM or Ctrl-C, what was under way finished.

    Args:
      port: 0: one that is free; the line on stdout says which.
      wrap: what is served in the model's place, for comparisons.

    Raises:
      UserError: no such model, one that needs all recordings of a speaker, or an address that cannot be bound.
    """
    if not path:
        raise UserError("--mode=serve needs --bundle=BUNDLE, a folder that --mode=fit wrote, or a run or checkpoint")
    with optional("--mode=serve", "serve"):
        import httptools  # noqa: F401
        import multipart  # noqa: F401
        import uvicorn
        import uvloop  # noqa: F401
        import websockets  # noqa: F401

        from emoflax.inference.serve import app
    _on_signals(_leave)
    bound = bind(host, port)  # before a model is loaded for nothing
    model = wrap(ready(path))
    options = {
        "log_level": "warning", "access_log": False, "server_header": False, "limit_concurrency": _MOST_CONNECTIONS,
        "ws_max_size": _MOST_MESSAGE_BYTES, "timeout_graceful_shutdown": round(2 * settings.timeout_s),
        "backlog": _BACKLOG,
    }  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(app.create(model, settings), **options))
    _on_signals(lambda number, frame: setattr(server, "should_exit", True))  # under uvicorn's own, and again at its end
    name, at = bound.getsockname()[:2]
    if host not in LOOPBACK:
        logging.warning("anybody who reaches %s can use the service: it asks for no password", name)
    print(f"serving {path} at http://{f'[{name}]' if ':' in name else name}:{at}/", flush=True)
    server.run(sockets=[bound])


def ready(path: str) -> Model:
    """The model, with everything compiled that it needs.

    Raises:
      UserError: no such model, or one that cannot be served.
    """
    model = inference.load(path)
    if model.by_speaker:
        raise UserError(
            f"{path} was trained with recordings normalised by speaker: it predicts all recordings of one person "
            "together, and a service gets one at a time; use --mode=predict, or train without"
        )
    for member in model.members:
        member.config.data.cache_dir = ""  # no transcript is kept
    if model.notice:
        logging.warning("%s", model.notice)
    model.warm_up()
    model.predict(np.tile(inference.check_signal(model)["wave"], 2), 16_000, texts=["warm up"])  # imports
    return model


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    """At once: nothing is under way while a model is loaded, and a library may catch a KeyboardInterrupt then."""
    os._exit(128 + number)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; whoever connects is served when the model is ready.

    Raises:
      UserError: there is no such address, or it is taken.
    """
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)  # else two services could bind it
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host={host} --port={port} cannot be served: {reason}; choose another --port") from error
    return bound
