"""What one cell of a list of recordings means: nothing, a name, a number of seconds."""

import decimal
import math
import re
import unicodedata

# What programs write into an empty cell: in upper or lower case; and exactly so, since Nan, Nat and Na are names.
_EMPTY = ("none", "null", "<na>", "n/a", "#n/a")
_EMPTY_AS_IT_IS = ("nan", "-nan", "NaN", "NAN", "NaT", "NA", "#NA")
_JOINERS = "\u200c\u200d"  # without a width, but between letters of some scripts part of the word
# Invisible, though not in Unicode's category Cf: the grapheme joiner, Hangul fillers, variation selectors.
_UNSEEN = re.compile("[\u034f\u115f\u1160\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_SIGNS = str.maketrans({"\u2212": "-", "\u2018": "'", "\u2019": "'", "\u02bc": "'", "`": "'", "\u00b4": "'"})
# '1', '01', '1.0', '1,0' and '1e+05', as R, Python and spreadsheets write one; but '1,000' may be a thousand, and '1e5'
# a hexadecimal name.
_NUMBER = re.compile(r"-?\d+(?:\.\d*|,(?!000$)\d+)?|-?[1-9](?:\.\d+)?e[+-]\d{1,3}", re.ASCII)


def is_empty(value: str) -> bool:
    """Whether it stands for nothing, such as 'nan', 'None', 'NaT' or R's 'NA'."""
    return not value or value.casefold() in _EMPTY or value in _EMPTY_AS_IT_IS


def broken_character(value: str, *, is_text: bool) -> str:
    """The first control character, lone surrogate or replacement character in it, as 'U+0000'; '' if it has none.

    Args:
      is_text: whether it is a transcript: only NUL and lone surrogates count there, for old ones hold the others.
    """
    for character in value:
        kind = unicodedata.category(character)
        of_name = character == "\ufffd" or (kind == "Cc" and not character.isspace())
        if kind == "Cs" or character == "\0" or (of_name and not is_text):
            return f"U+{ord(character):04X}"
    return ""


def without_invisible(name: str) -> str:
    """In NFC, without invisible characters: zero-width spaces, directional marks, soft hyphens."""
    composed = unicodedata.normalize("NFC", _UNSEEN.sub("", name))
    kept = (c for place, c in enumerate(composed) if unicodedata.category(c) != "Cf" or _joins(composed, place))
    return "".join(kept)


def _joins(name: str, place: int) -> bool:
    """Whether a joiner stands between two letters of a script that has such."""
    around = name[max(0, place - 1) : place] + name[place + 1 : place + 2]
    letters = [c for c in around if c.isalpha() and "LATIN" not in unicodedata.name(c, "")]
    return name[place] in _JOINERS and len(letters) == 2


def spelling(name: str) -> str:
    """What the spellings of one speaker have in common: 'Anna' and 'anna'; '1', '01' and '1,0'; 'S1' and 's_01'.

    Between two letters or two digits a hyphen, a point or a space counts: 'Ann E' is not 'Anne', '1-1' is not '11'.
    """
    visible = without_invisible("".join(c for c in name if c not in _JOINERS))
    folded = unicodedata.normalize("NFKC", visible.translate(_SIGNS)).casefold().strip()
    digits = "".join(str(unicodedata.digit(c, c)) for c in folded)
    if _NUMBER.fullmatch(digits) and (whole := _whole_number(digits)):
        return whole
    words = " ".join("".join(" " if _separates(c) else c for c in digits).split())
    words = re.sub(r"[0-9]+", lambda number: number[0].lstrip("0") or "0", words)
    return re.sub(r"(?<=[0-9]) (?=[^\W\d_])|(?<=[^\W\d_]) (?=[0-9])", "", words)


def _separates(character: str) -> bool:
    return character in ".," or character.isspace() or unicodedata.category(character) in ("Pd", "Pc", "Zs", "Zl", "Zp")


def _whole_number(digits: str) -> str:
    """'01', '1.0', '1,0' and '1e+0' as '1'; '' where it is no whole number."""
    value = decimal.Decimal(digits.replace(",", "."))
    return str(int(value)) if value == int(value) else ""


def seconds(value: str) -> float:
    """'1.5' or '0 days 00:00:01.5' (pandas; days may be missing) in seconds; nan for anything else."""
    time = re.fullmatch(r"(?:(\d+) days? )?(\d+):(\d\d):(\d\d(?:\.\d+)?)", value, re.ASCII)
    try:
        days, hours, minutes, rest = (float(part or 0) for part in time.groups()) if time else (0, 0, 0, float(value))
    except ValueError:
        return math.nan
    return days * 86_400 + hours * 3_600 + minutes * 60 + rest
