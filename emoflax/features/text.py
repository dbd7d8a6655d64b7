"""The words of every clip: where they come from, how they are cleaned, and how they are cut into tokens.

`normalise` and `tokenise` are pure, and training and prediction share them. `transcripts` is the one place that knows
the sources (Whisper, the corpus's reference text, a file of the user's).
"""

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import regex
from absl import logging

from emoflax.data import subwords
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import NotInstalled, UserError, WeightsUnavailable
from emoflax.features import stt

SOURCES = ("auto", "whisper", "reference", "file")

# A UTF-8 punctuation mark (bytes E2 80 xx) that somebody read as cp1252 or latin-1: "Iâ€™m", "Iâ\x80\x99m".
_MISREAD_UTF8 = re.compile("â[€\x80](.)", re.DOTALL)
# A cp1252 byte that somebody read as latin-1, as in MELD's first release: "I\x92m".
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
    """Unicode NFKC, encoding accidents repaired, straight quotes, '...' for every ellipsis, single blanks.

    A pass may lay bare what the next one repairs, so it runs until nothing changes: normalise(normalise(x)) ==
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
    except UnicodeError:  # an honest 'â€' before something else
        return match[0]


def _reread_cp1252(match: re.Match[str]) -> str:
    return match[0].encode("latin-1").decode("cp1252", errors="ignore")


def tokenise(text: str, lowercase: bool) -> list[str]:
    """Words with their contractions whole ("don't", "y'know"), every mark of punctuation a token of its own.

    Punctuation stays because '!', '?' and '...' tell emotions apart; a hyphen separates, so that a stutter ("I-I-I")
    gives known words. A text without words gives []. Chinese and Japanese, which put no blanks between words, come
    out as one token per run of characters.
    """
    tokens = _TOKEN.findall(normalise(text))
    return [token.lower() for token in tokens] if lowercase else tokens


def cutter(text: Mapping) -> Callable[[str], list[str]]:
    """What cuts a transcript into tokens: our words, or the subwords of text['tokenizer'].

    Args:
      text: the fields of `config.text`.
    """
    if not text["tokenizer"]:
        return lambda line: tokenise(line, text["lowercase"])
    cut = subwords.cutter(text["tokenizer"], text["max_tokens"])
    return lambda line: cut(line) if (line := normalise(line)) else []


def transcripts(corpus: Corpus, text: Mapping, cache_dir: str) -> list[str | None]:
    """The words of every clip of the corpus, in its order, as the source wrote them; None where there are none.

    Args:
      corpus: whose clips.
      text: the fields of `config.text`.
      cache_dir: Whisper's transcripts are kept in its folder `transcripts`, and so is the list of clips without words.

    Raises:
      UserError: the source is unknown or cannot be had. Only 'auto' ever takes another source, and says so loudly.
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
        _tell_failures(corpus, source, failures, cache_dir)
    return words


def transcribe_file(path: str, text: Mapping, cache_dir: str) -> str:
    """What Whisper hears in one recording, whatever text.source says: a new file has no reference text.

    Whisper stays loaded for the next file.

    Raises:
      UserError: Whisper cannot be had, or the recording cannot be read.
    """
    words, failures = stt.transcribe_clips([Clip(path, "", "", path)], text, cache_dir, stt.kept_engine)
    if failures:
        raise UserError(failures[path])
    return words[0]


def choose_source(corpus: Corpus, text: Mapping, cache_dir: str) -> str:
    """'whisper', 'reference' or 'file'; for 'auto' the first of the first two that can be had."""
    source = text["source"]
    if source not in SOURCES:
        raise UserError(f"text.source={source!r} is unknown; allowed are {', '.join(SOURCES)}.")
    has_text = any(clip.text is not None for clip in corpus.clips)
    has_audio = any(clip.path is not None for clip in corpus.clips)
    if source == "whisper" and not has_audio:
        raise UserError(f"Corpus {corpus.name} has no recordings for text.source=whisper to listen to; use reference.")
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
                f"Corpus {corpus.name} has no reference text, and Whisper cannot be had. {reason}"
            ) from reason
        _tell_fallback(corpus, str(reason))
        return "reference"
    return "whisper"


def _tell_fallback(corpus: Corpus, reason: str) -> None:
    rule = "=" * 88
    logging.warning(
        "\n%s\nNO WHISPER: the words of corpus %s are its REFERENCE TEXT, not transcripts of the sound.\n%s\n"
        "A model trained on them never sees recognition errors. To insist on Whisper: text.source=whisper.\n%s",
        rule, corpus.name, reason, rule,
    )  # fmt: skip


def _tell_failures(corpus: Corpus, source: str, failures: Mapping[str, str], cache_dir: str) -> None:
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
    """The `text` column of a CSV or JSONL file for every clip, found by its `id`, or else by its `file`.

    A `file` is the clip's path (relative to the table's folder or absolute), or a bare file name where that is unique.

    Raises:
      UserError: no such file, not readable, columns missing, one clip with two texts, or not a single clip in it.
    """
    if not file:
        raise UserError("text.source=file needs text.file, a CSV or JSONL file with columns id (or file) and text.")
    rows = _read_rows(Path(file))
    words = _words_by_id(clips, rows, file) if "id" in rows[0] else _words_by_file(clips, rows, file)
    if all(word is None for word in words):
        raise UserError(
            f"{file} has no text for any of the {len(clips)} clips, e.g. {clips[0].id!r}; its first row is {rows[0]}."
        )
    return words


def _read_rows(path: Path) -> list[dict]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            if path.suffix.lower() == ".csv":
                rows = list(csv.DictReader(lines))
            else:
                rows = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"Cannot read text.file={path}: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise UserError(f"text.file={path} is not a UTF-8 CSV (.csv) or JSONL file: {error}") from error
    if not rows:
        raise UserError(f"text.file={path} has no rows.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or "text" not in row or not ("id" in row or "file" in row):
            raise UserError(
                f"text.file={path}, record {number}: columns id (or file) and text are needed, got {row!r:.200}"
            )
    return rows


def _words_by_id(clips: Sequence[Clip], rows: Sequence[dict], file: str) -> list[str | None]:
    table = _unique_table(((str(row.get("id")), row["text"]) for row in rows), file)
    return [table.get(clip.id) for clip in clips]


def _words_by_file(clips: Sequence[Clip], rows: Sequence[dict], file: str) -> list[str | None]:
    folder = Path(file).resolve().parent
    table = _unique_table((((folder / str(row.get("file"))).resolve(), row["text"]) for row in rows), file)
    names = Counter(path.name for path in table)
    by_name = {path.name: word for path, word in table.items() if names[path.name] == 1}
    paths = [Path(clip.path).resolve() if clip.path else None for clip in clips]
    shared = [path for path, count in Counter(paths).items() if path is not None and count > 1]
    if shared:
        raise UserError(f"{shared[0]} holds several clips, so {file} must name clips by a column id, not file.")
    return [None if path is None else table.get(path, by_name.get(path.name)) for path in paths]


def _unique_table(pairs, file: str) -> dict:
    table = {}
    for key, word in pairs:
        if word is not None and table.setdefault(key, str(word)) != str(word):
            raise UserError(f"{file} has two different texts for {key}; keep one.")
    return table
