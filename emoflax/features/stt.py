"""Speech to text, with a cache, so that no recording is transcribed twice.

An engine is a module here and a line in `ENGINES`, with two functions: `locate_weights(model)` returns if that model's
weights are available and raises `WeightsUnavailable` if not; `load(text)` returns an object whose `texts(waves)` turns
waveforms into transcripts. `transcribe_clips` runs an engine over a corpus.
"""

from collections.abc import Mapping, Sequence
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
        """Transcripts of waveforms (float32 [samples], 16 kHz, mono, any length): '' where there is no speech.

        A wave's words do not depend on the other waves.
        """


def load(text: Mapping) -> Engine:
    """The engine that `config.text` describes (fields engine, whisper_model, language, prompt, beam).

    Raises:
      UserError: unknown engine, model or language, weights that are not available (`WeightsUnavailable`) or damaged.
    """
    return _module(text).load(text)


def locate_weights(text: Mapping) -> None:
    """Returns if weights are on disk or can be downloaded; takes about 5 s at most.

    Raises:
      WeightsUnavailable: neither; the message names the file and its folder.
      UserError: no such engine, no such model, no such file.
    """
    _module(text).locate_weights(text["whisper_model"])


def _module(text: Mapping):
    if text["engine"] not in ENGINES:
        raise UserError(f"text.engine={text['engine']!r} is unknown; allowed are {', '.join(ENGINES)}.")
    return ENGINES[text["engine"]]


def all_cached(clips: Sequence[Clip], text: Mapping, cache_dir: str) -> bool:
    """Whether every transcript is in the cache, so that `transcribe_clips` needs no weights."""
    cache = TranscriptCache(cache_dir, text)
    return all(cache.find(clip) is not None for clip in clips)


def transcribe_clips(clips: Sequence[Clip], text: Mapping, cache_dir: str) -> tuple[list[str | None], dict[str, str]]:
    """Transcripts in the order of the clips, and why by clip id where there is None.

    Whisper is loaded once, and not at all where every transcript is cached; it is dropped at the end, which frees its
    memory for training.

    At most `text.whisper_batch` recordings are in memory at a time. A killed run continues where it stopped.

    Raises:
      UserError: see `load`; the cache cannot be written.
    """
    cache = TranscriptCache(cache_dir, text)
    failures: dict[str, str] = {}
    missing = [clip for clip in clips if cache.find(clip) is None]
    if missing:
        _transcribe_missing(missing, cache, text, failures)
    return [cache.find(clip) for clip in clips], failures


def transcribe_samples(samples: np.ndarray, rate_hz: int, text: Mapping, cache_dir: str) -> str:
    """The transcript of decoded sound, float32 [samples], by an engine that stays loaded; errors as of `load`.

    Without a `cache_dir` nothing is kept.
    """
    from emoflax.features import decode  # libsndfile and soxr, which a text-only run does not need

    def transcribed() -> str:
        (words,) = kept_engine(text).texts([decode.resample(samples, rate_hz, stt_openai.SAMPLE_RATE_HZ)])
        return words

    if not cache_dir:
        return transcribed()
    cache, digest = TranscriptCache(cache_dir, text), decode.digest(samples)
    words = cache.find_digest(digest)
    if words is None:
        words = transcribed()
        cache.add([(Clip(digest, "", ""), digest, words)])
    return words


def _transcribe_missing(
    missing: Sequence[Clip],
    cache: TranscriptCache,
    text: Mapping,
    failures: dict[str, str],
) -> None:
    if text["whisper_batch"] < 1:
        raise UserError(f"text.whisper_batch is {text['whisper_batch']}; it must be at least 1.")
    engine = None
    rest = iter(missing)
    with tqdm(total=len(missing), desc="transcribing", unit="clip", disable=len(missing) < 2) as progress:
        while clips := list(islice(rest, text["whisper_batch"])):
            decoded = _decoded(clips, failures)
            new = {digest: wave for _, digest, wave in decoded if cache.find_digest(digest) is None}
            words = {}
            if new:
                engine = engine or load(text)
                words = dict(zip(new, engine.texts(list(new.values())), strict=True))
            cache.add([(clip, digest, words.get(digest, cache.find_digest(digest))) for clip, digest, _ in decoded])
            progress.update(len(clips))


def _decoded(clips: Sequence[Clip], failures: dict[str, str]) -> list[tuple[Clip, str, np.ndarray]]:
    """(clip, digest, float32 [samples] at 16 kHz) of every clip that can be read."""
    decoded = []
    for clip in clips:
        try:
            if clip.path is None:
                raise UserError("it has no recording")
            digest, wave = _waveform(clip)
        except UserError as error:
            failures[clip.id] = str(error)
        else:
            decoded.append((clip, digest, wave))
    return decoded


def _waveform(clip: Clip) -> tuple[str, np.ndarray]:
    """Digest of the decoded samples, and these at Whisper's sample rate."""
    from emoflax.features import decode, untrusted  # libsndfile and soxr, which a text-only run does not need

    samples, rate_hz = untrusted.decode(clip.path, clip.start_s, clip.end_s)
    return decode.digest(samples), decode.resample(samples, rate_hz, stt_openai.SAMPLE_RATE_HZ)


_engines: dict[tuple, Engine] = {}  # at most one


def kept_engine(text: Mapping) -> Engine:
    """As `load`, but the last engine stays in memory, for files that come one at a time."""
    key = tuple(text[field] for field in ("engine", "whisper_model", "language", "prompt", "beam"))
    if key not in _engines:
        _engines.clear()
        _engines[key] = load(text)
    return _engines[key]
