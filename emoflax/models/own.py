"""An encoder of somebody's own, by the name of its module and class: config.model.audio='my_module:Frames'."""

import importlib
import os
import sys

from flax import nnx

from emoflax.errors import UserError


def is_own(name: str) -> bool:
    """Whether a name is a module and a class, rather than one of the registry."""
    return ":" in name


def settings(name: str) -> str:
    """The group of config.model that holds an encoder's settings: the class's name, or that of the registry."""
    return name.rpartition(":")[2]


def load(name: str) -> type[nnx.Module]:
    """The class of 'module:Class'; the module is an installed one, or a file of the current folder, and is imported.

    Raises:
      UserError: there is no such module or class, its import fails, or it is no flax.nnx.Module.
    """
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:  # last: it must not stand in front of an installed package of the same name
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise UserError(f"the encoder {name!r} cannot be imported: {error}") from error
        raise UserError(
            f"the encoder {name!r} needs {module}.py, which is neither in the current folder ({here}) nor installed; "
            "go to its folder, or add that to $PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise UserError(f"the encoder {name!r}: module {module} has no {attribute}") from error
    except Exception as error:  # whatever goes wrong in a file that anybody may write
        raise UserError(f"the encoder {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nnx.Module)):
        raise UserError(f"the encoder {name!r} must be a class that inherits from flax.nnx.Module")
    return found
