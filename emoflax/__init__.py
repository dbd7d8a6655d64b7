"""EmoFlax: speech-emotion classifiers in JAX/Flax, from the sound, the words, or both."""

import pathlib

__version__ = "0.2.0"

# In a checkout, configs/, precompute/ and main.py stand beside this folder; an installed package holds them inside.
# Either way they are `emoflax.configs`, `emoflax.precompute` and `emoflax.main`, so that no other project's `configs`
# is taken for ours.
_HERE = pathlib.Path(__file__).parent
if not (_HERE / "configs").is_dir():
    __path__.append(str(_HERE.parent))
