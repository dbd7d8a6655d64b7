"""Tasks that each train a model, several at once, each in a process of its own.

One training process leaves much of a second core idle: XLA's programs on the CPU run many small operations one after
the other. Two processes with a core each nearly double the models per hour.
"""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from emoflax.errors import UserError


def run(function: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> Iterator[tuple[int, Any]]:
    """Yields (position of the task, function(task)) as tasks end; with fewer than two workers here, in order.

    Args:
      function: of a module's top level; it and the tasks are pickled.
      workers: processes at once. Spawned: a process that has started JAX's threads must not be forked.

    Raises:
      UserError: of the first task that raises one, or a process was killed; the other tasks are stopped.
    """
    if workers < 2 or len(tasks) < 2:
        yield from ((place, function(task)) for place, task in enumerate(tasks))
        return
    import jax  # a process that has yet to be prepared (`_start`) imports this module, and must not start with it

    _silence_resource_tracker()
    context, count = multiprocessing.get_context("spawn"), min(workers, len(tasks))
    shared = (context.Value("i", 0), count, jax.config.jax_compilation_cache_dir)
    with concurrent.futures.ProcessPoolExecutor(count, context, _start, shared) as pool:
        try:
            places = {pool.submit(function, task): place for place, task in enumerate(tasks)}
            for future in concurrent.futures.as_completed(places):
                yield places[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a training process ended before its work was done, most often because memory ran out; what was "
                "finished is kept: run the same command again, with fewer workers if it happens again"
            ) from error
        except BaseException:  # Ctrl-C as well: nobody waits for models in work, which resume where they were saved
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def in_thread(function: Callable[[], None]) -> concurrent.futures.Future[None]:
    """Runs it in a thread of its own; `result()` of what is returned waits for it, and raises what it raised."""
    thread = concurrent.futures.ThreadPoolExecutor(1)
    done = thread.submit(function)
    thread.shutdown(wait=False)
    return done


def _start(started: Any, count: int, cache_dir: str | None) -> None:
    """Prepares a process before it imports what trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent answers it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    os.environ["TQDM_DISABLE"] = "1"  # the bars of several processes would overwrite each other
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / count:.2f}")  # of an accelerator's memory
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    keep_to_cores(number, count)  # XLA starts a thread for each core that it may use
    if cache_dir:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache_dir


def _silence_resource_tracker() -> None:
    """Stopped processes leave semaphores (of tqdm, tensorboardX) to Python's resource tracker, which warns of each.

    The tracker is a process of its own, started with this one's environment: only a warning filter there reaches it.
    """
    rule = "ignore::UserWarning:multiprocessing.resource_tracker"
    rules = [given for given in os.environ.get("PYTHONWARNINGS", "").split(",") if given]
    if rule not in rules:
        os.environ["PYTHONWARNINGS"] = ",".join([*rules, rule])


def end_with_parent() -> None:
    """Lets this process end when its parent was killed.

    Otherwise it would wait for work for ever, or write where the next run of the same command resumes.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def keep_to_cores(number: int, count: int) -> None:
    """Leaves this process every `count`th of the cores that it may use; all, where it would have none."""
    if hasattr(os, "sched_getaffinity") and (cores := sorted(os.sched_getaffinity(0))[number::count]):
        os.sched_setaffinity(0, cores)


def usable_cores() -> int:
    """Processor cores that this process may use; where the system does not report that (macOS, Windows), all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
