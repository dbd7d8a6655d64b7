"""Kinds of values that a config's field may hold: numbers of a range, tuples of them, names, texts.

A kind has two methods: `allows(value)`, and `str(kind)`, which completes the sentence "config.x=value must be ...".
NaN and infinity are no `Number`.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Number:
    """From `low` to `high`. `above`, `below`: that end itself is not allowed; `or_zero`: 0 is, which means off."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    or_zero: bool = False
    whole: bool = False

    def allows(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if self.whole else numbers.Real):
            return False
        if not self.whole and not math.isfinite(value):
            return False
        fits = (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )
        return bool(fits or (self.or_zero and value == 0))

    def __str__(self) -> str:
        low, high = (f"{end:,}" if self.whole else f"{end:g}" for end in (self.low, self.high))
        if self.high == math.inf:
            ends = "" if self.low == -math.inf else f" above {low}" if self.above else f" of at least {low}"
        elif self.above or self.below:
            ends = (
                f" {'above' if self.above else 'of at least'} {low} and {'below' if self.below else 'at most'} {high}"
            )
        else:
            ends = f" from {low} to {high}"
        return f"{'0 or ' if self.or_zero else ''}a {'whole ' if self.whole else ''}number{ends}"


@dataclasses.dataclass(frozen=True)
class Each:
    """A tuple whose values all are of one kind. `lengths`: that it may have; `order`: 'distinct', 'rising' or ''."""

    kind: "Number | Text | OneOf"
    lengths: tuple[int, ...] = ()
    least: int = 1
    order: str = ""
    example: str = ""

    def allows(self, value: Any) -> bool:
        if not isinstance(value, tuple | list) or not all(map(self.kind.allows, value)):
            return False
        if len(value) not in self.lengths if self.lengths else len(value) < self.least:
            return False
        if self.order == "rising":
            return all(a < b for a, b in zip(value, value[1:], strict=False))
        if self.order == "not falling":
            return all(a <= b for a, b in zip(value, value[1:], strict=False))
        return self.order != "distinct" or len(set(value)) == len(value)

    def __str__(self) -> str:
        count = " or ".join(map(str, self.lengths)) or f"{self.least} or more"
        order = {"": "", "distinct": ", no two alike", "rising": ", the lower one first"}
        order["not falling"] = order["rising"]
        example = f", such as {self.example}" if self.example else ""
        return f"a tuple of {count} values, each {self.kind}{order[self.order]}{example}"


@dataclasses.dataclass(frozen=True)
class Text:
    """A string; `pattern`: the whole of it, `says`: in words."""

    pattern: str = ""
    says: str = "a text"

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and (not self.pattern or bool(re.fullmatch(self.pattern, value, re.DOTALL)))

    def __str__(self) -> str:
        return self.says


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of some names. `names` is called when it is needed: registries live in modules that take seconds to import.

    One of `suffixes` may stand behind any of them; a name that ends in ':' is the beginning of one. `own`: the pattern
    of other values that are allowed, and what they are in words.
    """

    names: Callable[[], Sequence[str]]
    suffixes: tuple[str, ...] = ()
    own: tuple[str, str] = ("", "")

    def allows(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        if self.own[0] and re.fullmatch(self.own[0], value):
            return True
        value = value.removesuffix(next(filter(value.endswith, self.suffixes), ""))
        beginnings = tuple(name for name in self.names() if name.endswith(":"))
        return value not in beginnings and (value in self.names() or value.startswith(beginnings))

    def __str__(self) -> str:
        names = ", ".join(f"{name}NAME" if name.endswith(":") else name or "'' (none)" for name in self.names())
        suffixes = " or ".join(self.suffixes)
        suffixes = f"; or one of them with {suffixes} behind it" if suffixes else ""
        return f"one of: {names}{suffixes}{f'; or {self.own[1]}' if self.own[1] else ''}"


@dataclasses.dataclass(frozen=True)
class Several:
    """Texts of one kind with commas between them, at least one."""

    kind: OneOf

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and all(self.kind.allows(part.strip()) for part in value.split(","))

    def __str__(self) -> str:
        return f"{self.kind}; or several with commas between them"


@dataclasses.dataclass(frozen=True)
class TrueOrFalse:
    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


@dataclasses.dataclass(frozen=True)
class Table:
    """A dictionary by name; `checks` looks into it."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)

    def __str__(self) -> str:
        return "a dictionary with names as keys"


@dataclasses.dataclass(frozen=True)
class Renaming:
    """A dictionary from texts to texts or None."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            isinstance(old, str) and old and (new is None or isinstance(new, str) and new) for old, new in value.items()
        )

    def __str__(self) -> str:
        return "a dictionary from names to names or None, such as {'calm': 'neutral', 'boredom': None}"


Kind = Number | Each | Text | OneOf | Several | TrueOrFalse | Table | Renaming


def whole(low: int, high: float = math.inf) -> Number:
    return Number(low, high, whole=True)


def names(*values: str) -> OneOf:
    return OneOf(lambda: values)
