"""The names that emotions go by, to tell a misspelt label from a new one."""

import difflib
import re
from collections.abc import Mapping

# One emotion per line. Several words of one line in one corpus mean the same class.
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
FEW_CLIPS = 10


def normalise(label: str) -> str:
    """Lower case, single spaces, no space at the ends."""
    return " ".join(label.lower().split())


def merged(counts: Mapping[str, int]) -> dict[str, str]:
    """{label: name to use} for labels that name one emotion in two ways ('anger', 'angry'): the commoner name."""
    names: dict[str, str] = {}
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        names.setdefault(EMOTION_OF.get(label, label), label)
    return {label: names[EMOTION_OF.get(label, label)] for label in counts}


def typos(counts: Mapping[str, int]) -> dict[str, str]:
    """{label: name that it may have been meant to be, or ''} for labels that look like slips of the pen.

    A label is free to be any word, in any language, as long as it is used like one: known emotions pass, and so does
    an unknown word in several clips. A slip is an unknown word in a single clip; one close to a known emotion, where
    that emotion is in the corpus too or the word is rare; or one close to a label at least ten times as common.
    """
    present = {EMOTION_OF.get(label) for label in counts}
    slips = {}
    for label in sorted(set(counts) - EMOTION_OF.keys()):
        known = _nearest(label, EMOTION_OF)
        commoner = _nearest(label, [other for other in counts if counts[other] >= 10 * counts[label]])
        if known and (EMOTION_OF[known] in present or counts[label] < FEW_CLIPS):
            slips[label] = known
        elif commoner or counts[label] == 1:
            slips[label] = commoner
    return slips


def _nearest(label: str, names: Mapping[str, str] | list[str]) -> str:
    """The name one or two letters away, or ''. 'class1' and 'class2' are not near: their digits tell them apart."""
    near = difflib.get_close_matches(label, list(names), n=1, cutoff=0.75)
    return near[0] if near and re.sub(r"\d", "", near[0]) != re.sub(r"\d", "", label) else ""
