"""Under which licence recordings, pretrained weights and openSMILE are published; a model card repeats it."""

_LICENCES = {
    "ravdess": "RAVDESS (Livingstone & Russo 2018): CC BY-NC-SA 4.0, not for commercial use",
    "synthetic": "synthetic voices made by EmoFlax itself: MIT",
    "meld": "MELD (Poria et al. 2019): annotations GPL-3.0; the scenes belong to the owners of a television series",
    "crema_d": "CREMA-D (Cao et al. 2014): Open Database License 1.0, contents under the Database Contents License 1.0",
    "tess": "TESS (Pichora-Fuller & Dupuis 2020): CC BY-NC-ND 4.0, not for commercial use",
    "savee": "SAVEE (Jackson & Haq 2014): for research alone, by the publisher's registration",
}
_WEIGHTS = {
    "ast": "AST (Gong et al. 2021): BSD-3-Clause",
    "bert": "BERT (Devlin et al. 2019): Apache-2.0",
    "data2vec_audio": "data2vec-audio (Baevski et al. 2022): see its page, most are Apache-2.0",
    "hubert": "HuBERT (Hsu et al. 2021): Apache-2.0",
    "wav2vec2": "wav2vec 2.0 (Baevski et al. 2020): see its page, most are Apache-2.0",
    "wavlm": "WavLM (Chen et al. 2022): see its page",
    "whisper": "Whisper (Radford et al. 2022): MIT",
}
OPENSMILE = (
    "needs openSMILE (Eyben et al. 2010): audEERING Research License, for research and other non-commercial purposes"
)


def licence_of(corpus: str) -> str:
    """A sentence about the corpus of that name."""
    return _LICENCES.get(corpus, f"{corpus}: not known to EmoFlax; ask whoever recorded it, and see config.fit.licence")


def licence_of_weights(encoder: str) -> str:
    """A sentence about the pretrained weights of an encoder, by its name in the registry."""
    first = _WEIGHTS.get(encoder, f"{encoder}: not known to EmoFlax")
    return f"pretrained weights of {first}; others of this kind, made from them, may have another licence"
