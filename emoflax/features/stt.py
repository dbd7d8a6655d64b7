"""Speech to text, through a cache that lets no recording be transcribed twice.

An engine is a file here and a line in `ENGINES`: a module with two functions. `locate_weights(model)` returns if that
model's weights can be had and raises `WeightsUnavailable` if not; `load(text)` gives an object whose `texts(waves)`
turns waveforms into transcripts. `transcribe_clips` runs an engine over a corpus.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from tqdm import tqdm

from emoflax.data.clip import Clip
from emoflax.errors import UserError
from emoflax.features import stt_faster, stt_openai
from emoflax.features.transcript_cache import TranscriptCache

ENGINES = {"openai-whisper": stt_openai, "faster-whisper": stt_faster}


class Engine(Protocol):
    def texts(self, waves: Sequence[np.ndarray]) -> list[str]:
        """Transcripts of waveforms (float32 [samples], 16 kHz, mono, any length): '' where nobody speaks.

        A wave's words do not depend on the other waves.
        """


def load(text: Mapping) -> Engine:
    """The engine that `config.text` describes (fields engine, whisper_model, language, prompt, beam).

    Raises:
      UserError: unknown engine, model or language, weights that cannot be had (`WeightsUnavailable`) or are broken.
    """
    return _module(text).load(text)


def locate_weights(text: Mapping) -> None:
    """Returns if `load` will find weights, on disk or by download; takes about 5 s at most.

    Raises:
      WeightsUnavailable: neither; says which file to put where.
      UserError: no such engine, no such model, no such file.
    """
    _module(text).locate_weights(text["whisper_model"])


def _module(text: Mapping):
    if text["engine"] not in ENGINES:
        raise UserError(f"text.engine={text['engine']!r} is unknown; allowed are {', '.join(ENGINES)}.")
    return ENGINES[text["engine"]]


def all_cached(clips: Sequence[Clip], text: Mapping, cache_dir: str) -> bool:
    """Whether `transcribe_clips` would find every transcript in the cache, and so needs no weights."""
    cache = TranscriptCache(cache_dir, text)
    return all(cache.find(clip) is not None for clip in clips)


def transcribe_clips(
    clips: Sequence[Clip], text: Mapping, cache_dir: str, get_engine: Callable[[Mapping], Engine] = load
) -> tuple[list[str | None], dict[str, str]]:
    """Transcripts in the order of the clips, and why by clip id where there is None.

    `get_engine(text)` is called once, and not at all where every transcript is cached; the engine is dropped at the
    end, so that training has its memory.

    At most `text.whisper_batch` recordings are in memory at a time. A killed run continues where it stopped.

    Raises:
      UserError: see `load`; the cache cannot be written.
    """
    cache = TranscriptCache(cache_dir, text)
    failures: dict[str, str] = {}
    missing = [clip for clip in clips if cache.find(clip) is None]
    if missing:
        _transcribe_missing(missing, cache, text, failures, get_engine)
    return [cache.find(clip) for clip in clips], failures


def _transcribe_missing(
    missing: Sequence[Clip],
    cache: TranscriptCache,
    text: Mapping,
    failures: dict[str, str],
    get_engine: Callable[[Mapping], Engine],
) -> None:
    if text["whisper_batch"] < 1:
        raise UserError(f"text.whisper_batch is {text['whisper_batch']}; it must be at least 1.")
    engine = None
    rest = iter(missing)
    with tqdm(total=len(missing), desc="transcribing", unit="clip", disable=len(missing) < 2) as progress:
        while clips := list(islice(rest, text["whisper_batch"])):
            heard = _listen(clips, failures)
            new = {digest: wave for _, digest, wave in heard if cache.find_digest(digest) is None}
            words = {}
            if new:
                engine = engine or get_engine(text)
                words = dict(zip(new, engine.texts(list(new.values())), strict=True))
            cache.add([(clip, digest, words.get(digest, cache.find_digest(digest))) for clip, digest, _ in heard])
            progress.update(len(clips))


def _listen(clips: Sequence[Clip], failures: dict[str, str]) -> list[tuple[Clip, str, np.ndarray]]:
    """(clip, digest, float32 [samples] at 16 kHz) of every clip that can be read."""
    heard = []
    for clip in clips:
        try:
            if clip.path is None:
                raise UserError("it has no recording")
            digest, wave = _waveform(clip)
        except UserError as error:
            failures[clip.id] = str(error)
        else:
            heard.append((clip, digest, wave))
    return heard


def _waveform(clip: Clip) -> tuple[str, np.ndarray]:
    """Digest of the decoded samples, and the same as Whisper wants them."""
    from emoflax.features import decode  # libsndfile and soxr, which a text-only run does not need

    samples, rate_hz = decode.decode(clip.path, clip.start_s, clip.end_s)
    return decode.digest(samples), decode.resample(samples, rate_hz, stt_openai.SAMPLE_RATE_HZ)


_engines: dict[tuple, Engine] = {}  # at most one


def kept_engine(text: Mapping) -> Engine:
    """As `load`, but the last engine stays in memory, for files that come one at a time."""
    key = tuple(text[field] for field in ("engine", "whisper_model", "language", "prompt", "beam"))
    if key not in _engines:
        _engines.clear()
        _engines[key] = load(text)
    return _engines[key]
