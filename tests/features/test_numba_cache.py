"""librosa is imported by a user who may write neither beside it nor at home."""

import os
import pathlib
import shutil
import subprocess
import sys

import cli
import librosa
import pytest

SCRIPT = """
import os, sys, tempfile
from emoflax.features import decode
import librosa, numpy as np
print(librosa.__file__)
print(os.environ.get("NUMBA_CACHE_DIR"))
print(decode.trim(np.sin(np.arange(16_000)), 35.0).shape)
"""


@pytest.fixture(scope="module")
def read_only_site(tmp_path_factory):
    """A folder with librosa in it, beside which nothing can be cached: even root cannot make a folder of a file."""
    site = tmp_path_factory.mktemp("site")
    copy = site / "librosa"
    shutil.copytree(pathlib.Path(librosa.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        (folder / "__pycache__").write_text("")
    return site


def run(site: pathlib.Path, temporary: pathlib.Path, script: str) -> subprocess.CompletedProcess:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    }
    environment |= {
        "HOME": "/dev/null",
        "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join([str(site), str(cli.ROOT)]),
    }
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)


def test_without_a_home_numba_keeps_its_cache_in_a_temporary_folder_that_goes_with_the_process(
    read_only_site, tmp_path
):
    done = run(read_only_site, tmp_path, SCRIPT)
    assert done.returncode == 0, done.stderr
    where, cache, shape = done.stdout.splitlines()
    assert pathlib.Path(where).is_relative_to(read_only_site) and shape == "(16000,)"
    assert pathlib.Path(cache).parent == tmp_path and not list(tmp_path.glob("emoflax-numba-*"))


def test_librosa_alone_cannot_be_imported_there(read_only_site, tmp_path):
    """If it can, numba has changed and `numba_cache` is needless."""
    done = run(read_only_site, tmp_path, "import librosa; librosa.effects")
    assert "no locator available" in done.stderr


def test_numba_keeps_its_usual_cache_where_it_has_one(tmp_path):
    done = run(tmp_path, tmp_path, SCRIPT)
    assert done.stdout.splitlines()[1:] == ["None", "(16000,)"], done.stderr
