"""A folder for numba, which compiles parts of librosa at import and refuses to where it can keep nothing."""

import atexit
import importlib.util
import os
import pathlib
import shutil
import tempfile

from emoflax.files import is_writable


def ensure() -> None:
    """Gives numba a temporary folder if it has no other: no writable site-packages and no home, as in containers.

    To be called before librosa is imported. Processes that are started later share the folder; it is deleted when this
    one ends. Compiling anew costs a few seconds per command.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    librosa = importlib.util.find_spec("librosa")
    beside = pathlib.Path(librosa.origin).parent / "__pycache__"
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"
    if not (is_writable(beside) or is_writable(home)):
        folder = os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="emoflax-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
