"""From a recording to features on the host: decoding, log-mels, contours, functionals, transcripts, tokens."""

from emoflax.features import numba_cache

numba_cache.ensure()  # before any module here imports librosa
