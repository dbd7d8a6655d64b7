"""Tasks that several processes or hosts divide among themselves: each runs the same command on the same folder.

Whoever comes to a task that is free claims it (`experiment.claims`), passes those that are claimed, and comes back to
them at the end: then they are done, or their process has died and they are free again.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from emoflax.experiment import claims
from emoflax.parallel import workers

POLL_S = 1.0


def run(
    function: Callable[[Any], Any], tasks: Sequence[Any], count: int, folder_of: Callable[[Any], pathlib.Path]
) -> Iterator[tuple[int, Any]]:
    """As `parallel.workers.run`, where other processes work on the same tasks.

    Args:
      function: raises ClaimedError for a task that another process is at, and returns what is kept of a finished one.
      count: processes here at once.
      folder_of: that a task's process claims.
    """
    left = dict(enumerate(tasks))
    while left:
        places, some = zip(*left.items(), strict=True)
        for at, (mine, result) in workers.run(functools.partial(_unless_claimed, function), some, count):
            if mine:
                del left[places[at]]
                yield places[at], result
        while left and all(claims.is_claimed(folder_of(task)) for task in left.values()):
            time.sleep(POLL_S)


def _unless_claimed(function: Callable[[Any], Any], task: Any) -> tuple[bool, Any]:
    try:
        return True, function(task)
    except claims.ClaimedError:
        return False, None
