"""Several processes that train one model: how they connect, and what process 0 does for all.

Every process runs the same command. All compute, and all write their share of a checkpoint; only process 0 computes
features, writes reports and logs, and shows the progress bar.
"""

import contextlib
import errno
import itertools
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from emoflax.errors import UserError
from emoflax.parallel import peers

MODES = ("train", "eval", "precompute")
_SHUTDOWN_S = 30  # a finished process waits so long for the others
_HEARTBEAT_S = 40  # after which a silent process is taken for lost, and all others end
_PRECOMPUTE_S = 24 * 3600.0
_barriers = itertools.count()  # numbers of the barriers, whose names must differ
T = TypeVar("T")


def connect(
    on: bool, mode: str, coordinator: str | None, processes: int | None, process: int | None, timeout_s: int
) -> None:
    """Makes this process one of several, before JAX looks for devices.

    Args:
      on: whether there are several.
      coordinator: HOST:PORT of process 0; None, with the next two: taken from the cluster's environment.
      processes: how many there are.
      process: number of this one.
      timeout_s: how long to wait for the others.

    Raises:
      UserError: flags that do not go together, no cluster, a port in use. Where the other processes do not connect, the
        program ends here, with a sentence and status 2.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if not on:
        if any(given):
            raise UserError(
                "--coordinator, --processes and --process describe how processes connect: they need --multihost"
            )
        return
    if mode not in MODES:
        raise UserError(f"--multihost goes with --mode={', '.join(MODES)}, not with --mode={mode}")
    if any(given) and not all(given):
        raise UserError(
            "--multihost needs --coordinator=HOST:PORT, --processes=N and --process=I together, or none of them where "
            "the cluster (SLURM, Open MPI, Kubernetes, Cloud TPU) provides them"
        )
    if all(given):
        _check(coordinator, processes, process)
    where = f"process {process} of {processes} at {coordinator}" if all(given) else "the cluster's settings"
    # JAX ends the program with a C++ stack trace at its own timeout, so ours is shorter.
    watch = threading.Timer(timeout_s, _give_up, (where, timeout_s))
    watch.daemon = True
    watch.start()
    try:
        with _no_proxies():
            jax.distributed.initialize(
                coordinator, processes, process,
                initialization_timeout=timeout_s + 60, shutdown_timeout_seconds=_SHUTDOWN_S,
                heartbeat_timeout_seconds=_HEARTBEAT_S,
            )  # fmt: skip
    except (ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        if reason == "coordinator_address should be defined.":
            reason = "no cluster was recognised (SLURM, Open MPI, Kubernetes, Cloud TPU)"
        raise UserError(f"--multihost: {reason}; name --coordinator=HOST:PORT, --processes and --process") from error
    finally:
        watch.cancel()
    peers.watch(coordinator)
    if not is_first():
        logging.set_verbosity(logging.WARNING)
    logging.info("%d processes with %d devices together", jax.process_count(), jax.device_count())


def _check(coordinator: str, processes: int, process: int) -> None:
    if processes < 1 or not 0 <= process < processes:
        raise UserError(f"--process={process} must be from 0 to --processes={processes} less 1")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={coordinator} must be HOST:PORT of process 0, e.g. 10.0.0.1:1234")
    if process:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise UserError(f"--coordinator={coordinator}: port {port} {why} on this host; choose another") from error


@contextlib.contextmanager
def _no_proxies() -> Iterator[None]:
    """Connects processes directly where a proxy is set for the Internet, which would never reach the coordinator.

    The variables are away while the connection is made, for where a cluster names the coordinator, its host is not
    known before; downloads later find them again.
    """
    names = [name for name in os.environ if name.lower() in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy")]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


def _give_up(where: str, timeout_s: int) -> None:
    print(
        f"\nerror: --multihost: the processes did not meet within {timeout_s} s ({where}); check that all of them run, "
        "that --coordinator names the host of process 0, and that its port can be reached from the others",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    os._exit(2)  # the main thread is in a C++ call that no exception interrupts


def is_first() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


def first_then_all(make: Callable[[], T]) -> T:
    """Calls `make()` in process 0 and then in the others, which read from disk what process 0 has written.

    Raises:
      UserError: in every process, if process 0 raised one.
    """
    if jax.process_count() == 1:
        return make()
    made = failure = None
    if is_first():
        try:
            made = make()
        except UserError as error:
            failure = error
    wait_for_all_processes(f"emoflax-{next(_barriers)}", _PRECOMPUTE_S)
    if multihost_utils.broadcast_one_to_all(np.array(failure is not None)):
        raise failure or UserError("process 0 stopped; see its own message")
    return made if is_first() else make()


def own_share(items: np.ndarray) -> np.ndarray:
    """The items of this process, where every process adds its part."""
    return items[jax.process_index() :: jax.process_count()]


def total(numbers: np.ndarray) -> np.ndarray:
    """Sum of float64 arrays over the processes, the same in each."""
    if jax.process_count() == 1:
        return numbers
    # As bytes: JAX would convert them to float32.
    gathered = multihost_utils.process_allgather(np.ascontiguousarray(numbers, np.float64).view(np.uint8))
    return np.ascontiguousarray(gathered).view(np.float64).reshape(-1, *numbers.shape).sum(0)


def wait_for_all_processes(name: str, timeout_s: float) -> None:
    """Returns when every process has called it with that name, which must be new.

    A barrier of the hosts, not of the devices: a collective of devices does not wait for hours.
    """
    import orbax.checkpoint as ocp  # takes a second, wanted only where there are several hosts

    ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=round(timeout_s * 1000))
