"""EmoFlax: speech-emotion classifiers in JAX/Flax, from the sound, the words, or both."""

import pathlib

# In a checkout, configs/ and precompute/ stand beside this folder; an installed package holds them inside. Either way
# they are `emoflax.configs` and `emoflax.precompute`, so that no other project's `configs` is taken for ours.
_HERE = pathlib.Path(__file__).parent
if not (_HERE / "configs").is_dir():
    __path__.append(str(_HERE.parent))
