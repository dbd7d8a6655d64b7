"""Cluster tests take minutes and start daemons, so they run only where they are asked for.

EMOFLAX_CLUSTER=1 python -m pytest -n 0 -rs tests/cluster
"""

import os
import pathlib

import pytest


def pytest_collection_modifyitems(items):
    """Skips this folder's tests, not those of others, which the hook sees too."""
    if os.environ.get("EMOFLAX_CLUSTER") == "1":
        return
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="takes minutes and starts daemons: set EMOFLAX_CLUSTER=1"))
