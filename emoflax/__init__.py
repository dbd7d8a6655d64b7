"""EmoFlax: speech-emotion classifiers in JAX/Flax, from the sound, the words, or both."""

import pathlib
from typing import TYPE_CHECKING, Any

from emoflax.errors import UserError

if TYPE_CHECKING:
    from emoflax.inference.model import Model, Prediction, from_checkpoint, load

__version__ = "0.2.0"
__all__ = ["Model", "Prediction", "UserError", "from_checkpoint", "load"]

# In a checkout, configs/, precompute/ and main.py stand beside this folder; an installed package holds them inside.
# Either way they are `emoflax.configs`, `emoflax.precompute` and `emoflax.main`, so that no other project's `configs`
# is taken for ours.
_HERE = pathlib.Path(__file__).parent
if not (_HERE / "configs").is_dir():
    __path__.append(str(_HERE.parent))


def __getattr__(name: str) -> Any:
    """The public API, imported when it is first used: JAX takes a second."""
    if name not in __all__:
        raise AttributeError(f"module 'emoflax' has no attribute {name!r}")
    from emoflax.inference import model

    return getattr(model, name)
