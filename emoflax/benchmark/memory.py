"""Peak memory of processes, as the system counts it: the most that was resident at once."""

import resource
import sys

_UNIT = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss, in MiB


def peak_mib(used: resource.struct_rusage | None = None) -> float:
    """Of this process since it began, or of an ended one by what `os.wait4` says of it."""
    return (used or resource.getrusage(resource.RUSAGE_SELF)).ru_maxrss / _UNIT


def peak_of_children_mib() -> float:
    """Of the largest one of the processes that this one has waited for; 0: there was none."""
    return peak_mib(resource.getrusage(resource.RUSAGE_CHILDREN))
