"""Speech to text by openai-whisper, and a cache that lets no recording be transcribed twice.

`load(text)` gives an engine: an object whose `texts(waves)` turns waveforms into transcripts. Another engine takes its
place by offering the same method. `transcribe_clips` runs an engine over a corpus, through the cache.

whisper pulls in torch and takes about 3 s to import, so it is imported inside the functions that need it: a run whose
transcripts are cached never pays for it.
"""

import contextlib
import hashlib
import http.client
import json
import os
import pickle
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

from emoflax.clip import Clip
from emoflax.errors import UserError

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 30 * SAMPLE_RATE_HZ  # what Whisper's encoder hears at once; shorter clips are padded to it
REACH_TIMEOUT_S = 5.0
STALL_TIMEOUT_S = 60.0
# Whisper's own rule for windows without speech (transcribe.py), where it would otherwise make words up.
NO_SPEECH_PROBABILITY = 0.6
NO_SPEECH_LOG_PROBABILITY = -1.0


class WeightsUnavailable(UserError):
    """Whisper's weights are neither on this machine nor can they be downloaded now."""


class WhisperEngine:
    """openai-whisper, loaded once.

    Attributes:
      model: the `whisper.Whisper` module, on the GPU where torch sees one.
      language: code, or None: Whisper guesses it for every clip.
      prompt: words that are said to have come before, or None.
      beam: width of the beam search, or None: greedy.
    """

    def __init__(self, model, language: str | None, prompt: str | None, beam: int | None):
        self.model = model
        self.language = language
        self.prompt = prompt
        self.beam = beam
        self.fp16 = model.device.type == "cuda"

    def texts(self, waves: Sequence[np.ndarray]) -> list[str]:
        """Transcripts of waveforms (float32 [samples], 16 kHz, mono, any length): '' where nobody speaks.

        Waves of up to 30 s go through the model as one batch; a longer one goes alone, window by window.
        """
        short = [index for index, wave in enumerate(waves) if len(wave) <= WINDOW_SAMPLES]
        batch = dict(zip(short, self._decode([waves[index] for index in short]), strict=True)) if short else {}
        return [batch[index] if index in batch else self._transcribe(wave) for index, wave in enumerate(waves)]

    def _decode(self, waves: Sequence[np.ndarray]) -> list[str]:
        import torch
        import whisper

        # One by one: log_mel_spectrogram clips at 80 dB under the loudest value of all it is given, so in one call a
        # clip's transcript would depend on its neighbours in the batch.
        mels = [
            whisper.log_mel_spectrogram(whisper.pad_or_trim(wave), self.model.dims.n_mels, device=self.model.device)
            for wave in waves
        ]
        options = whisper.DecodingOptions(
            language=self.language, temperature=0.0, prompt=self.prompt, beam_size=self.beam,
            without_timestamps=True, fp16=self.fp16,
        )  # fmt: skip
        # One clip at a time where beams are searched: with more, whisper 20250625 stops at a misshapen cross-attention
        # (openai/whisper pull request 2197).
        groups = [[mel] for mel in mels] if self.beam else [mels]
        results = [result for group in groups for result in whisper.decode(self.model, torch.stack(group), options)]
        return [_spoken(result) for result in results]

    def _transcribe(self, wave: np.ndarray) -> str:
        # With timestamps, which let the next window begin where the last whole sentence ended. Windows do not
        # condition on each other's text: that is how Whisper falls into repeating itself.
        result = self.model.transcribe(
            wave, language=self.language, temperature=0.0, initial_prompt=self.prompt, beam_size=self.beam,
            fp16=self.fp16, condition_on_previous_text=False,
        )  # fmt: skip
        return result["text"].strip()


def _spoken(result) -> str:
    silent = result.no_speech_prob > NO_SPEECH_PROBABILITY and result.avg_logprob < NO_SPEECH_LOG_PROBABILITY
    return "" if silent else result.text.strip()


def load(text: Mapping) -> WhisperEngine:
    """The engine that `config.text` describes (fields whisper_model, language, prompt, beam).

    Raises:
      UserError: unknown model or language, weights that cannot be had (`WeightsUnavailable`) or are broken.
    """
    import whisper

    name = text["whisper_model"]
    locate_weights(name)
    logging.info("Loading Whisper %s", name)
    try:
        with _stall_timeout():
            model = whisper.load_model(name)
    except (RuntimeError, LookupError, TypeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        detail = (str(error).splitlines() or ["no details"])[0]
        raise UserError(
            f"Whisper's weights {name} could not be loaded: they are incomplete or no openai-whisper checkpoint "
            f"({type(error).__name__}: {detail}). Delete the file and run again, or set text.whisper_model."
        ) from error
    language = _language_code(text["language"], model.is_multilingual, name)
    return WhisperEngine(model.eval(), language, text["prompt"] or None, text["beam"] or None)


def _language_code(language: str, multilingual: bool, model: str) -> str | None:
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower()) or None
    if code is not None and code not in LANGUAGES:
        raise UserError(
            f"text.language={language!r} is unknown to Whisper; allowed are '' (guess) and {', '.join(LANGUAGES)}."
        )
    if not multilingual and code not in (None, "en"):
        raise UserError(
            f"Whisper {model} knows English only, text.language is {language!r}; take a model without '.en'."
        )
    return code if multilingual else "en"


def locate_weights(model: str) -> None:
    """Returns if `whisper.load_model(model)` will find weights, on disk or by download; takes about 5 s at most.

    Raises:
      WeightsUnavailable: neither; says which file to put where.
      UserError: no such model, no such file.
    """
    import whisper

    if Path(model).is_file():
        return
    if model not in whisper.available_models():
        raise UserError(
            f"text.whisper_model={model!r} is neither a file nor a Whisper model; models are "
            f"{', '.join(whisper.available_models())}."
        )
    url = whisper._MODELS[model]  # private, but the only place that knows the address and checksum
    file = weights_folder() / url.rsplit("/", 1)[1]
    found = "is missing"
    if file.is_file():
        if _sha256(file) == url.split("/")[-2]:
            return
        found = "is there, but its checksum is wrong (a download that broke off?)"
    if obstacle := _why_unreachable(url):
        raise WeightsUnavailable(
            f"Whisper's weights {file} {found}, and {url} cannot be reached ({obstacle}). Put {file.name} from there "
            f"into the folder {file.parent}, or set text.whisper_model to the path of a .pt file."
        )


def weights_folder() -> Path:
    """Where openai-whisper keeps its downloads."""
    return Path(os.getenv("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"


def _why_unreachable(url: str) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT_S):
            return ""
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__


@contextlib.contextmanager
def _stall_timeout() -> Iterator[None]:
    """Whisper downloads without a timeout of its own, so a connection that went silent would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TranscriptCache:
    """`<cache_dir>/transcripts/<model>-<hash>.jsonl`: what one model, decoding in one way, heard in which samples.

    Records are appended a batch at a time, so a killed run loses one batch. Each holds the digest of the decoded
    samples, which finds the words again in any corpus and under any name, and the file's stamp (path, size, time of
    change, part), which finds them without decoding.
    """

    def __init__(self, cache_dir: str, text: Mapping):
        model = text["whisper_model"]
        settings = {field: text[field] for field in ("language", "prompt", "beam")}
        settings["weights"] = _sha256(Path(model)) if Path(model).is_file() else model
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.path = Path(cache_dir) / "transcripts" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', Path(model).stem)}-{key}.jsonl"
        self._by_digest: dict[str, str] = {}
        self._by_stamp: dict[tuple, str] = {}
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # the torn line of a killed run
                    self._remember(json.loads(line))

    def _remember(self, record: dict) -> None:
        self._by_digest[record["digest"]] = record["text"]
        if record["stamp"]:
            self._by_stamp[tuple(record["stamp"])] = record["text"]

    def find(self, clip: Clip) -> str | None:
        """The words of this clip, without reading the recording."""
        stamp = _stamp(clip)
        return None if stamp is None else self._by_stamp.get(stamp)

    def find_digest(self, digest: str) -> str | None:
        """The words of these samples, whatever the recording is called."""
        return self._by_digest.get(digest)

    def add(self, heard: Sequence[tuple[Clip, str, str]]) -> None:
        """Appends (clip, digest, words) triples in one write."""
        records = [{"digest": digest, "text": words, "stamp": _stamp(clip)} for clip, digest, words in heard]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                _cut_torn_line(file)
                file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        except OSError as error:
            raise UserError(
                f"Cannot write {self.path}: {error.strerror}; make room there or set data.cache_dir."
            ) from error
        for record in records:
            self._remember(record)


def _cut_torn_line(file) -> None:
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - (1 << 20))  # a transcript is far shorter than 1 MiB
    file.seek(start)
    tail = file.read(end - start)
    if tail and not tail.endswith(b"\n"):
        file.truncate(start + tail.rfind(b"\n") + 1)


def _stamp(clip: Clip) -> tuple | None:
    if clip.path is None:
        return None
    try:
        status = os.stat(clip.path)
    except OSError:
        return None
    return os.path.abspath(clip.path), status.st_size, status.st_mtime_ns, clip.start_s, clip.end_s


def all_cached(clips: Sequence[Clip], text: Mapping, cache_dir: str) -> bool:
    """Whether `transcribe_clips` would find every transcript in the cache, and so needs no weights."""
    cache = TranscriptCache(cache_dir, text)
    return all(cache.find(clip) is not None for clip in clips)


def transcribe_clips(
    clips: Sequence[Clip], text: Mapping, cache_dir: str, get_engine: Callable[[Mapping], WhisperEngine] = load
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
    get_engine: Callable[[Mapping], WhisperEngine],
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
    from precompute import audio  # libsndfile and soxr, which a text-only run can do without

    samples, rate_hz = audio.decode(clip.path, clip.start_s, clip.end_s)
    return audio.digest(samples), audio.resample(samples, rate_hz, SAMPLE_RATE_HZ)


_engines: dict[tuple, WhisperEngine] = {}  # at most one


def kept_engine(text: Mapping) -> WhisperEngine:
    """As `load`, but the last engine stays in memory, for files that come one at a time."""
    key = tuple(text[field] for field in ("whisper_model", "language", "prompt", "beam"))
    if key not in _engines:
        _engines.clear()
        _engines[key] = load(text)
    return _engines[key]
