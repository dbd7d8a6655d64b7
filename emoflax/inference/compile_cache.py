"""Where compiled programs are kept between processes, so that the second one that loads a model compiles nothing."""

import os
import pathlib

import jax

from emoflax.files import is_writable

VARIABLE = "EMOFLAX_CACHE_DIR"


def folder() -> pathlib.Path | None:
    """$EMOFLAX_CACHE_DIR, else $XDG_CACHE_HOME/emoflax or ~/.cache/emoflax; None: it cannot be written to.

    A user without a home folder, as in many containers, has none, unless the variable names one.
    """
    given = os.environ.get(VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(given) if given else pathlib.Path(base) / "emoflax"
    if not path.is_absolute() and not given:  # '~' that stands for nothing
        return None
    return path if is_writable(path) else None


def keep(where: pathlib.Path | None) -> None:
    """Lets JAX keep every compiled program in `where`/xla, however fast it compiled.

    A folder that the process has set, or $JAX_COMPILATION_CACHE_DIR, is kept.
    """
    if where is None or jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(where / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
