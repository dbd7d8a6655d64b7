"""Under which licence a corpus's publisher gives its recordings; a model card repeats it."""

_LICENCES = {
    "ravdess": "RAVDESS (Livingstone & Russo 2018): CC BY-NC-SA 4.0, not for commercial use",
    "synthetic": "synthetic voices made by EmoFlax itself: MIT",
    "meld": "MELD (Poria et al. 2019): annotations GPL-3.0; the scenes belong to the owners of a television series",
    "crema_d": "CREMA-D (Cao et al. 2014): Open Database License 1.0, contents under the Database Contents License 1.0",
    "tess": "TESS (Pichora-Fuller & Dupuis 2020): CC BY-NC-ND 4.0, not for commercial use",
    "savee": "SAVEE (Jackson & Haq 2014): for research alone, by the publisher's registration",
}


def licence_of(corpus: str) -> str:
    """A sentence about the corpus of that name."""
    return _LICENCES.get(corpus, f"{corpus}: not known to EmoFlax; ask whoever recorded it, and see config.fit.licence")
