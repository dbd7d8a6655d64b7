"""A config by its name or path: `cnn2`, the one that the package holds, or the path of a file of one's own."""

import ast
import difflib
import importlib.resources
import pathlib
import re
import runpy
import traceback

from ml_collections import ConfigDict

from emoflax.errors import UserError
from emoflax.files import expanded

OLD_NAMES = {"solved": "closed_form"}  # configs that have another name now


def load(name: str) -> ConfigDict:
    """The locked config of a file; what follows a colon is given to its get_config.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path, *options = name.split(":", 1)
    path = locate(path)
    try:
        config = runpy.run_path(str(path))["get_config"](*options)
    except UserError:
        raise
    except Exception as error:  # whatever goes wrong in a file that anybody may write
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = f"{path}, line {line}" if line else str(path)
        raise UserError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returns {type(config).__name__}; return the ConfigDict of configs/default")
    return config.lock()


def locate(name: str) -> pathlib.Path:
    """The file of a packaged config, or of a path. Raises UserError with the list of configs where there is none."""
    path, packaged = expanded(name), folder()
    if path.is_file():
        return path
    if re.fullmatch(r"\w+", name) and (packaged / f"{name}.py").is_file():
        return packaged / f"{name}.py"
    if path.stem in OLD_NAMES:
        raise UserError(f"--config={name}: the config {path.stem} is called {OLD_NAMES[path.stem]} now")
    close = difflib.get_close_matches(path.stem, names(), n=3)
    if path.stem in close:
        hint = f"there is no such file here; the config of that name in the package is --config={path.stem}"
    else:
        hint = "there is no such config" + (f"; did you mean {' or '.join(close)}?" if close else "")
    width = max(map(len, names())) + 2
    listed = "\n".join(f"  {name:{width}}{summary(name)}" for name in names())
    raise UserError(f"--config={name}: {hint}\n--config takes the path of a file, or one of these names:\n{listed}")


def folder() -> pathlib.Path:
    """Where the packaged configs are."""
    return pathlib.Path(str(importlib.resources.files("emoflax.configs")))


def names() -> list[str]:
    """Of the packaged configs."""
    return sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__")


def summary(name: str) -> str:
    """The first line of a packaged config's docstring, without its name."""
    text = ast.get_docstring(ast.parse((folder() / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].removeprefix(f"{name}: ")
