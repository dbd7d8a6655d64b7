"""Settings for every test: compiled programs are kept between tests and processes, ranks and dtypes are strict."""

import os
import pathlib
import tempfile
import urllib.request

import pytest

CACHE = pathlib.Path(tempfile.gettempdir()) / "emoflax-tests-xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # most of the suite's time is compilation; a third less
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(autouse=True)
def proxies_of_this_test_only():
    """urllib keeps the proxies of a process's first request, so one test's unreachable one would be kept for all."""
    yield
    urllib.request.install_opener(None)
