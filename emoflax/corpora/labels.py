"""Names of emotions, to distinguish a misspelt label from a new one."""

import difflib
import re
from collections.abc import Collection, Mapping

from emoflax.corpora import cells

# One emotion per line. Several words of one line in one corpus are the same class.
_SAME = (
    "neutral neutrality",
    "calm calmness",
    "happy happiness joy joyful",
    "sad sadness",
    "angry anger",
    "fearful fear afraid",
    "disgust disgusted",
    "surprised surprise",
    "bored boredom",
    "anxious anxiety",
    "excited excitement",
    "frustrated frustration",
    "contempt contemptuous",
    "proud pride",
    "ashamed shame",
    "guilty guilt",
    "amused amusement",
    "relieved relief",
    "confused confusion",
    "tired tiredness",
    "sarcastic sarcasm",
    "hopeful hope",
    "loving love",
    "interested interest",
    "disappointed disappointment",
    "embarrassed embarrassment",
)
EMOTION_OF = {word: line.split()[0] for line in _SAME for word in line.split()}
SEVERAL_CLIPS = 3  # with so many, a word that resembles an emotion is taken for one of its own


def normalise(label: str) -> str:
    """Lower case, single spaces, none at the ends, nothing invisible, accents composed; '1.0' and '01' are '1'."""
    label = " ".join(cells.without_invisible(label).lower().split())
    number = re.fullmatch(r"(-?\d+)(\.0*)?", label, re.ASCII)
    return str(int(number[1])) if number and len(label) < 20 else label


def merged(counts: Mapping[str, int]) -> dict[str, str]:
    """{label: name to use} for labels that name one emotion in two ways ('anger', 'angry'): the more frequent name."""
    names: dict[str, str] = {}
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        names.setdefault(EMOTION_OF.get(label, label), label)
    return {label: names[EMOTION_OF.get(label, label)] for label in counts}


def typos(counts: Mapping[str, int], known: Collection[str] = ()) -> dict[str, str]:
    """{label: its probable correct name, or ''} for labels that look like typing errors.

    A label may be any word, in any language: known emotions are accepted, and so is an unknown word in several clips,
    though it resembles one ('unhappy', 'content', 'ang'). An unknown word counts as a typing error in a single clip; in
    fewer than SEVERAL_CLIPS, if it is close to a known emotion; or if it is close to a label at least ten times as
    frequent.

    Args:
      known: labels that are meant as they are.
    """
    errors = {}
    for label in sorted(set(counts) - EMOTION_OF.keys() - set(known)):
        close = _nearest(label, EMOTION_OF)
        more_frequent = _nearest(label, [other for other in counts if counts[other] >= 10 * counts[label]])
        if close and counts[label] < SEVERAL_CLIPS:
            errors[label] = close
        elif more_frequent or counts[label] == 1:
            errors[label] = more_frequent
    return errors


def _nearest(label: str, names: Mapping[str, str] | list[str]) -> str:
    """The name one or two letters away, or ''. 'class1' and 'class2' differ in digits, so they are not close."""
    near = difflib.get_close_matches(label, list(names), n=1, cutoff=0.75)
    return near[0] if near and re.sub(r"\d", "", near[0]) != re.sub(r"\d", "", label) else ""
