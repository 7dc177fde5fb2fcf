"""The distributions that searched keys are drawn from, as the sweep file writes them: `{uniform: [0.1, 0.5]}`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ambient_sweep.errors import UserError

Kind = Literal["uniform", "loguniform", "int", "logint", "choice"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Distribution:
    """Where the values of one searched key come from; `values` are the two ends, or the choices."""

    kind: Kind
    values: tuple[Any, ...]

    @property
    def size(self) -> float:
        """How many different values there are; inf for real numbers."""
        if self.kind == "choice":
            return len(self.values)
        return self.values[1] - self.values[0] + 1 if self.kind in ("int", "logint") else math.inf

    def read(self, value: Any) -> Any:
        """`value` in this distribution's own type. Raises ValueError where it does not lie within."""
        if self.kind == "choice":
            for choice in self.values:
                if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                    return choice
            raise ValueError(f"is not among the choices {list(self.values)}")
        number = _number(value, whole=self.kind in ("int", "logint"))
        if not self.values[0] <= number <= self.values[1]:
            raise ValueError(f"lies outside of {self.kind} {list(self.values)}")
        return number

    def dump(self) -> dict[str, list[Any]]:
        """As it is written in the sweep file."""
        return {self.kind: list(self.values)}


def read_distribution(spec: Any, where: str) -> Distribution:
    """The distribution that a sweep file writes as `spec`. Raises UserError, one line that begins with `where`."""
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in KINDS:
        raise UserError(f"{where}: expected one of {', '.join(KINDS)}, as in {{uniform: [0.1, 0.5]}}, not {spec!r}")
    kind, values = next(iter(spec.items()))
    if not isinstance(values, list):
        raise UserError(f"{where}: {kind} needs a list of values, not {values!r}")
    if kind == "choice":
        return Distribution("choice", _choices(values, where))
    try:
        numbers = tuple(_number(value, whole=kind in ("int", "logint")) for value in values)
    except ValueError as error:
        raise UserError(f"{where}: {kind} {values!r}: {error}") from None
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise UserError(f"{where}: {kind} needs its lower and its upper end, the lower first, not {values!r}")
    if kind in ("loguniform", "logint") and numbers[0] <= 0:
        raise UserError(f"{where}: {kind} needs ends above 0, not {values!r}")
    return Distribution(kind, numbers)


def _choices(values: list[Any], where: str) -> tuple[Any, ...]:
    for value in values:
        if not isinstance(value, str | int | float | None):
            raise UserError(f"{where}: a choice must be a number, a word, true, false or null, not {value!r}")
    marks = {(isinstance(value, bool), value) for value in values}
    if len(values) < 2 or len(marks) != len(values):
        raise UserError(
            f"{where}: choice needs at least two different values, not {values!r}; a single one goes to base"
        )
    return tuple(values)


def _number(value: Any, *, whole: bool) -> float | int:
    """YAML reads 1e-3 as a word, so words that are numbers count. Raises ValueError."""
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    if whole and number != int(number):
        raise ValueError(f"{value!r} is not a whole number")
    return int(number) if whole else number
