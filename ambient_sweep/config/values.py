"""Values as files and the command line give them: text, which a key reads as numbers."""

import difflib
import re
from collections.abc import Iterable
from typing import Any, get_args

UNCLEAR = re.compile(r"[-+]?(0[\d_]*\d|0[xob]\w+|\d[\d_]*(:[0-5]?\d)+([.][\d_]*)?)", re.IGNORECASE)
UNWRITABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # the last are bytes outside of UTF-8
WHOLE = re.compile(r"[-+]?[\d_]+")


def read_number(value: Any) -> Any:
    """The number that a word is, or the value as it is. Raises ValueError for octal, base 60 and the like."""
    if not isinstance(value, str):
        return value
    if UNCLEAR.fullmatch(value):
        raise ValueError("expected a decimal number, without leading zeros, colons, 0x, 0o or 0b")
    try:
        number = float(value)
    except ValueError:
        return value
    return int(value) if WHOLE.fullmatch(value) and abs(number) < 2**63 else number


def shown(value: Any) -> str:
    """A value in a message."""
    return "null" if value is None else repr(value)


def takes_numbers(kind: Any) -> bool:
    """Whether values of a type are numbers, or lists of them."""
    return kind in (int, float) or isinstance(kind, int) or any(map(takes_numbers, get_args(kind)))


ACT_WITH = {"consistency": "ambient_consistency", "distillation": "ambient_distilled"}  # one objective.kind alone


def is_acting(key: str, kind: str) -> bool:
    """Whether a key acts on training with this objective.kind."""
    return ACT_WITH.get(key.partition(".")[0], kind) == kind


def did_you_mean(word: object, known: Iterable[str], otherwise: str) -> str:
    """The nearest known word as a question, first among keys of this name in other sections; `otherwise` if none is near."""
    lower = {each.lower(): each for each in known}
    key = str(word).lower()
    namesakes = [each for each in lower if each.rpartition(".")[2] == key.rpartition(".")[2]]
    near = difflib.get_close_matches(key, namesakes or lower, n=1, cutoff=0 if namesakes else 0.6)
    return f"did you mean {lower[near[0]]!r}?" if near else otherwise
