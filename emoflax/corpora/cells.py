"""What one cell of a list of recordings means: nothing, a name, a number of seconds."""

import decimal
import math
import re
import unicodedata

# What programs write into an empty cell: in any case, and as it is here ('Na' is a name).
_EMPTY = ("nan", "nat", "none", "null", "<na>", "n/a", "#n/a", "-nan")
_EMPTY_AS_IT_IS = ("NA", "#NA")
_JOINERS = "\u200c\u200d"  # without a width, but in some scripts another letter
_NUMBER = re.compile(r"\d+(?:[.,]\d*)?(?:e[+-]?\d+)?")


def is_empty(value: str) -> bool:
    """Whether it stands for nothing, such as 'nan', 'None', 'NaT' or R's 'NA'."""
    return not value or value.casefold() in _EMPTY or value in _EMPTY_AS_IT_IS


def broken_character(value: str, *, is_text: bool) -> str:
    """A character that no name holds, as 'U+0000'; '' without one: halves of characters, and control characters.

    Args:
      is_text: whether it is words, in which of the control characters only the zero byte means that something is wrong.
    """
    for character in value:
        kind = unicodedata.category(character)
        if kind == "Cs" or character == "\0" or (kind == "Cc" and not is_text):
            return f"U+{ord(character):04X}"
    return ""


def without_invisible(name: str) -> str:
    """Accents composed, and no characters that nobody sees: zero-width spaces, marks of direction, soft hyphens."""
    kept = (c for c in name if unicodedata.category(c) != "Cf" or c in _JOINERS)
    return unicodedata.normalize("NFC", "".join(kept))


def spelling(name: str) -> str:
    """What the spellings of one speaker have in common: 'Anna' and 'anna'; '1', '01', '1,0' and '1e0'; 'S1' and 's_01'.

    Between two digits a hyphen, a point or a space counts: '1-1' is not '11'.
    """
    folded = unicodedata.normalize("NFKC", without_invisible(name)).casefold()
    if _NUMBER.fullmatch(folded) and (whole := _whole_number(folded)):
        return whole
    words = "".join(" " if _separates(c) else c for c in folded)
    words = re.sub(r"\d+", lambda digits: _without_zeros(digits[0]), " ".join(words.split()))
    return re.sub(r"(?<!\d) | (?!\d)", "", words)


def _separates(character: str) -> bool:
    return character in ".," or character.isspace() or unicodedata.category(character) in ("Pd", "Pc", "Zs", "Zl", "Zp")


def _whole_number(digits: str) -> str:
    """'01', '1.0', '1,0' and '1e0' as '1'; '' where it is no whole number."""
    try:
        value = decimal.Decimal(digits.replace(",", "."))
        return str(value.normalize()) if value == value.to_integral_value() else ""
    except decimal.DecimalException:  # an exponent that no number has
        return ""


def _without_zeros(digits: str) -> str:
    return "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0") or "0"


def seconds(value: str) -> float:
    """'1.5' or '0 days 00:00:01.5' (pandas; days may be missing) in seconds; nan for anything else."""
    time = re.fullmatch(r"(?:(\d+) days? )?(\d+):(\d\d):(\d\d(?:\.\d+)?)", value, re.ASCII)
    try:
        days, hours, minutes, rest = (float(part or 0) for part in time.groups()) if time else (0, 0, 0, float(value))
    except ValueError:
        return math.nan
    return days * 86_400 + hours * 3_600 + minutes * 60 + rest
