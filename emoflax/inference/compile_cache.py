"""Where compiled programs are kept between processes, so that the second one that loads a model compiles nothing."""

import os
import pathlib
import tempfile

import jax

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
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError:
        return None
    return path


def keep(where: pathlib.Path | None) -> None:
    """Lets JAX keep every compiled program in `where`/xla, however fast it compiled; what is set already stays.

    A program that the process set, or $JAX_COMPILATION_CACHE_DIR, has the word.
    """
    if where is None or jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(where / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
