"""Notices that another process of a run is gone, and ends this one with a sentence.

JAX would end it too, up to 40 s later and with a stack trace of C++. Process 0 listens, and every other process keeps a
connection to it open: the kernel closes it when a process has died, and keepalive packets find a host that is gone. A
process that process 0 cannot be reached from, behind a firewall, goes without.
"""

import contextlib
import os
import secrets
import socket
import sys
import threading

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

_TOKEN_BYTES = 16  # tells our processes from others that find the port
_CONNECT_S = 10.0
_IDLE_S, _BETWEEN_S, _PROBES = 10, 5, 3  # of keepalive: a host that is gone is noticed after 25 s
_GOODBYE = b"."
_connections: list[socket.socket] = []


def watch(coordinator: str | None) -> None:
    """Watches the other processes from now on; to be called by all of them at once.

    Args:
      coordinator: HOST:PORT, as the other processes reach process 0; None: by its own name.
    """
    first = jax.process_index() == 0
    listener, where = _listen(coordinator) if first else (None, np.zeros(6 + _TOKEN_BYTES, np.uint8))
    address = np.asarray(multihost_utils.broadcast_one_to_all(where), np.uint8).tobytes()
    host, port, token = socket.inet_ntoa(address[:4]), int.from_bytes(address[4:6], "big"), address[6:]
    if listener:
        threading.Thread(target=_accept, args=(listener, token), daemon=True).start()
        return
    try:
        connection = socket.create_connection((host, port), _CONNECT_S)
        connection.settimeout(None)
        connection.sendall(token + jax.process_index().to_bytes(4, "big"))
    except OSError as error:
        logging.warning(
            "process 0 does not answer at %s:%d (%s): if a process is lost, this one ends with JAX's message, in up to "
            "a minute", host, port, error,
        )  # fmt: skip
        return
    _watch_in_background(connection, 0)


def leave() -> None:
    """Tells the others that this process ends in order."""
    for connection in _connections:
        with contextlib.suppress(OSError):  # it left before
            connection.sendall(_GOODBYE)


def _listen(coordinator: str | None) -> tuple[socket.socket, np.ndarray]:
    """A listening socket, and uint8 [4 + 2 + token]: address, port and token."""
    listener = socket.create_server(("", 0))
    host = coordinator.rpartition(":")[0].strip("[]") if coordinator else socket.gethostname()
    port = listener.getsockname()[1].to_bytes(2, "big")
    return listener, np.frombuffer(
        socket.inet_aton(_address_of(host)) + port + secrets.token_bytes(_TOKEN_BYTES), np.uint8
    )


def _address_of(host: str) -> str:
    """IPv4 address of this host under that name; a name of its own is often bound to loopback, where others are not."""
    with contextlib.suppress(OSError):
        address = socket.gethostbyname(host)
        if not address.startswith("127.") or host in ("localhost", address):
            return address
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of no host (RFC 5737): nothing is sent, the route alone is looked up
        return probe.getsockname()[0]
    return "127.0.0.1"


def _accept(listener: socket.socket, token: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        connection.settimeout(_CONNECT_S)
        try:
            said = connection.recv(_TOKEN_BYTES + 4, socket.MSG_WAITALL)
        except OSError:
            said = b""
        if said[:_TOKEN_BYTES] != token:
            connection.close()
            continue
        connection.settimeout(None)
        _watch_in_background(connection, int.from_bytes(said[_TOKEN_BYTES:], "big"))


def _watch_in_background(connection: socket.socket, process: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", _IDLE_S), ("TCP_KEEPINTVL", _BETWEEN_S), ("TCP_KEEPCNT", _PROBES)):
        if hasattr(socket, option):  # macOS calls the first one otherwise
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    _connections.append(connection)
    threading.Thread(target=_wait_for_goodbye, args=(connection, process), daemon=True).start()


def _wait_for_goodbye(connection: socket.socket, process: int) -> None:
    try:
        said = connection.recv(1)
    except OSError:
        said = b""
    if not said:
        print(
            f"\nerror: --multihost: process {process} is gone (killed, crashed, or its host was lost); what was saved "
            "is kept: start the same command on all hosts again, on as many as there are, and it goes on from there",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(2)  # the main thread waits in a C++ call for an answer that will not come
