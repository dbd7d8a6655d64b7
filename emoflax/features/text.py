"""The words of every clip: their source, their normalisation, and their tokens.

`normalise` and `tokenise` are pure; training and prediction share them. `transcripts` chooses the source: Whisper, the
corpus's reference text, or a file of the user's.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import regex
from absl import logging

from emoflax.corpora import table
from emoflax.data import subwords
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import NotInstalled, UserError, WeightsUnavailable
from emoflax.features import stt

SOURCES = ("auto", "whisper", "reference", "file")

# A UTF-8 punctuation mark (bytes E2 80 xx) that was read as cp1252 or latin-1: "Iâ€™m", "Iâ\x80\x99m".
_MISREAD_UTF8 = re.compile("â[€\x80](.)", re.DOTALL)
# A cp1252 byte that was read as latin-1, as in MELD's first release: "I\x92m".
_C1_CONTROLS = re.compile("[\x80-\x9f]")
_INVISIBLE = re.compile("[\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_STRAIGHT = str.maketrans(
    {**dict.fromkeys("‘’‚‛′`´", "'"), **dict.fromkeys("“”„‟″«»", '"'), **dict.fromkeys("‐‑", "-")}
)
_DOTS = re.compile(r"\.(?:\s?\.)+")
_DASHES = re.compile(r"[‒–—―]|-(?:\s?-)+")

# Numbers with their separators, words with their inner apostrophes, an ellipsis, or any single mark. The `regex`
# package knows \p{M}: with the standard library's \w every vowel sign of Hindi or Thai would be a token of its own.
_TOKEN = regex.compile(r"\p{N}+(?:[.,:]\p{N}+)+|[\p{L}\p{M}\p{N}]+(?:'[\p{L}\p{M}\p{N}]+)*|\.\.\.|\S")


def normalise(text: str) -> str:
    """Unicode NFKC, wrongly decoded characters repaired, straight quotes, '...' for every ellipsis, single spaces.

    One repair can make another possible, so passes are repeated until nothing changes: normalise(normalise(x)) ==
    normalise(x). Case is kept.
    """
    while (cleaned := _normalise_once(text)) != text:
        text = cleaned
    return text


def _normalise_once(text: str) -> str:
    text = _MISREAD_UTF8.sub(_reread_utf8, unicodedata.normalize("NFC", text))
    text = _C1_CONTROLS.sub(_reread_cp1252, text).translate(_STRAIGHT)
    text = unicodedata.normalize("NFKC", text)
    text = _UNPRINTABLE.sub(" ", _INVISIBLE.sub("", text))
    text = _DASHES.sub(" - ", _DOTS.sub("...", text))
    return " ".join(text.split())


def _reread_utf8(match: re.Match[str]) -> str:
    char = match[1]
    try:
        byte = bytes([ord(char)]) if "\x80" <= char <= "\x9f" else char.encode("cp1252")
        return (b"\xe2\x80" + byte).decode("utf-8")
    except UnicodeError:  # 'â€' that is meant, before another character
        return match[0]


def _reread_cp1252(match: re.Match[str]) -> str:
    return match[0].encode("latin-1").decode("cp1252", errors="ignore")


def tokenise(text: str, lowercase: bool) -> list[str]:
    """Words with their contractions whole ("don't", "y'know"), every mark of punctuation a token of its own.

    Punctuation stays because '!', '?' and '...' differ between emotions; a hyphen separates, so that a stutter
    ("I-I-I") gives known words. A text without words gives []. Chinese and Japanese, which are written without spaces,
    give one token per run of characters.
    """
    tokens = _TOKEN.findall(normalise(text))
    return [token.lower() for token in tokens] if lowercase else tokens


def words_alone(text: str) -> str:
    """A text without its punctuation: words and numbers with a space between them."""
    return " ".join(token for token in tokenise(text, lowercase=False) if any(letter.isalnum() for letter in token))


def cutter(text: Mapping) -> Callable[[str], list[str]]:
    """The tokenizer, from a transcript to tokens: `tokenise`, or the subwords of text['tokenizer'].

    Args:
      text: the fields of `config.text`.
    """
    said = normalise if text["punctuation"] else words_alone
    if not text["tokenizer"]:
        return lambda line: tokenise(said(line), text["lowercase"])
    cut = subwords.cutter(text["tokenizer"], text["max_tokens"])
    return lambda line: cut(line) if (line := said(line)) else []


def transcripts(corpus: Corpus, text: Mapping, cache_dir: str) -> list[str | None]:
    """The words of every clip of the corpus, in its order, as the source wrote them; None where there are none.

    Args:
      text: the fields of `config.text`.
      cache_dir: its folder `transcripts` holds Whisper's transcripts and the list of clips without words.

    Raises:
      UserError: the source is unknown or not available. Only 'auto' falls back to another source, with a warning.
    """
    source = choose_source(corpus, text, cache_dir)
    if source == "whisper":
        words, failures = stt.transcribe_clips(corpus.clips, text, cache_dir)
    elif source == "file":
        words = read_transcripts(corpus.clips, text["file"])
        failures = {
            clip.id: f"not in {text['file']}" for clip, word in zip(corpus.clips, words, strict=True) if word is None
        }
    else:
        words = [clip.text for clip in corpus.clips]
        failures = {clip.id: "has no reference text" for clip in corpus.clips if clip.text is None}
    if failures:
        _warn_of_failures(corpus, source, failures, cache_dir)
    return words


def transcribe(samples: np.ndarray, rate_hz: int, text: Mapping, cache_dir: str) -> str:
    """Whisper's transcript of decoded sound, float32 [samples], whatever text.source is: it has no reference text.

    Whisper stays loaded for the next recording.

    Raises:
      UserError: Whisper is not available.
    """
    return stt.transcribe_samples(samples, rate_hz, text, cache_dir)


def choose_source(corpus: Corpus, text: Mapping, cache_dir: str) -> str:
    """'whisper', 'reference' or 'file'; for 'auto' the first of the first two that is available."""
    source = text["source"]
    if source not in SOURCES:
        raise UserError(f"text.source={source!r} is unknown; allowed are {', '.join(SOURCES)}.")
    has_text = any(clip.text is not None for clip in corpus.clips)
    has_audio = any(clip.path is not None for clip in corpus.clips)
    if source == "whisper" and not has_audio:
        raise UserError(f"Corpus {corpus.name} has no recordings, which text.source=whisper needs; use reference.")
    if source == "reference" and not has_text:
        raise UserError(f"Corpus {corpus.name} has no reference text; set text.source to whisper or file.")
    if source != "auto":
        return source
    if not has_audio or not corpus.intelligible:
        if not has_text:
            raise UserError(f"Corpus {corpus.name} has neither recordings nor reference text; set text.source=file.")
        return "reference"
    if stt.all_cached(corpus.clips, text, cache_dir):
        return "whisper"
    try:
        stt.locate_weights(text)
    except (NotInstalled, WeightsUnavailable) as reason:
        if not has_text:
            raise UserError(
                f"Corpus {corpus.name} has no reference text, and Whisper is not available. {reason}"
            ) from reason
        _warn_of_fallback(corpus, str(reason))
        return "reference"
    return "whisper"


def _warn_of_fallback(corpus: Corpus, reason: str) -> None:
    rule = "=" * 88
    logging.warning(
        "\n%s\nNO WHISPER: the words of corpus %s are its REFERENCE TEXT, not transcripts of the sound.\n%s\n"
        "A model trained on them never meets recognition errors. To require Whisper: text.source=whisper.\n%s",
        rule, corpus.name, reason, rule,
    )  # fmt: skip


def _warn_of_failures(corpus: Corpus, source: str, failures: Mapping[str, str], cache_dir: str) -> None:
    folder = Path(cache_dir) / "transcripts"
    path = folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', corpus.name)}-without-{source}-text.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{clip}: {reason}\n" for clip, reason in failures.items()), encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}; make room there or set data.cache_dir.") from error
    first = "; ".join(f"{clip}: {reason}" for clip, reason in list(failures.items())[:3])
    logging.warning("%d of %d clips have no words (%s%s); the list is in %s", len(failures), len(corpus.clips), first,
                    "; ..." if len(failures) > 3 else "", path)  # fmt: skip


def read_transcripts(clips: Sequence[Clip], file: str) -> list[str | None]:
    """The `text` column of a CSV or JSONL file for every clip, by the column `id`, or else by `file`.

    A `file` is the clip's path (relative to the table's folder or absolute), or a bare file name where that is unique.

    Raises:
      UserError: no such file, not readable, columns missing, two texts for one clip, or no text for any clip.
    """
    if not file:
        raise UserError("text.source=file needs text.file, a CSV or JSONL file with columns id (or file) and text.")
    path = Path(file)
    rows = [row.cells for row in table.read(path)]
    columns = {name for cells in rows for name in cells}
    key = next((name for name in ("id", "file") if name in columns), None)
    if key is None or "text" not in columns:
        raise UserError(f"{path} needs columns id (or file) and text; its columns are {', '.join(sorted(columns))}.")
    pairs = [(cells.get(key, ""), cells["text"]) for cells in rows if "text" in cells]
    texts = _texts_by_id(clips, pairs, path) if key == "id" else _texts_by_file(clips, pairs, path)
    if all(text is None for text in texts):
        raise UserError(
            f"{path} has no text for any of the {len(clips)} clips, e.g. {clips[0].id!r}; its first row is {rows[0]}."
        )
    return texts


def _texts_by_id(clips: Sequence[Clip], pairs: Sequence[tuple[str, str]], path: Path) -> list[str | None]:
    text_of = _unique(pairs, path)
    return [text_of.get(clip.id) for clip in clips]


def _texts_by_file(clips: Sequence[Clip], pairs: Sequence[tuple[str, str]], path: Path) -> list[str | None]:
    folder = path.resolve().parent
    text_of = _unique((((folder / file).resolve(), text) for file, text in pairs), path)
    names = Counter(file.name for file in text_of)
    by_name = {file.name: text for file, text in text_of.items() if names[file.name] == 1}
    files = [Path(clip.path).resolve() if clip.path else None for clip in clips]
    shared = [file for file, count in Counter(files).items() if file is not None and count > 1]
    if shared:
        raise UserError(f"{shared[0]} contains several clips, so {path} must name clips by a column id, not file.")
    return [None if file is None else text_of.get(file, by_name.get(file.name)) for file in files]


def _unique(pairs: Iterable[tuple[Hashable, str]], path: Path) -> dict:
    text_of = {}
    for key, text in pairs:
        if text_of.setdefault(key, text) != text:
            raise UserError(f"{path} has two different texts for {key}; keep one.")
    return text_of
