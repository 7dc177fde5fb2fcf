"""The distributions that searched keys are drawn from, as the sweep file writes them: `{uniform: [0.1, 0.5]}`.

`step` makes a range a ladder that begins at its lower end: `{uniform: [0.05, 0.5], step: 0.05}`. `when` makes a key
conditional: `{loguniform: [0.1, 3], when: {objective.kind: ambient_consistency}}`, a list standing for any of its values.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from ambient_sweep.config import check_keys, flatten
from ambient_sweep.config.files import read_value
from ambient_sweep.config.values import did_you_mean, read_number, shown
from ambient_sweep.errors import UserError

Kind = Literal["uniform", "loguniform", "int", "logint", "choice"]
KINDS: tuple[str, ...] = get_args(Kind)
EXTRAS = ("step", "when")
WHOLE, STEPPED = ("int", "logint"), ("uniform", "int")


@dataclass(frozen=True)
class Distribution:
    """Where the values of one searched key come from; `values` are the two ends, or the choices.

    `when` holds (key, values) pairs: the key is drawn only where each of those keys is active and has one of the values.
    """

    kind: Kind
    values: tuple[Any, ...]
    step: float | int | None = None
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def size(self) -> float:
        """How many different values there are; inf for real numbers without a step."""
        if self.kind == "choice":
            return len(self.values)
        if self.kind not in WHOLE and self.step is None:
            return math.inf
        return _steps(self.values[0], self.values[1], self.step or 1) + 1

    def grid(self) -> Sequence[Any]:
        """All values, in order. Raises ValueError where there are infinitely many."""
        if self.kind == "choice":
            return self.values
        if self.kind in WHOLE:
            return range(self.values[0], self.values[1] + 1, int(self.step or 1))
        if math.isinf(self.size):
            raise ValueError(f"{self.kind} {list(self.values)} has no step, so its values cannot be listed")
        return tuple(self._rung(index) for index in range(int(self.size)))

    def at(self, quantile: float) -> Any:
        """The value below which the share `quantile`, in [0, 1), of the distribution lies."""
        low, high = self.values[0], self.values[-1]
        if self.kind == "loguniform":
            return low * (high / low) ** quantile
        if self.kind == "logint":
            return max(low, round((low - 0.5) * ((high + 0.5) / (low - 0.5)) ** quantile))
        if math.isinf(self.size):
            return low + (high - low) * quantile
        return self.grid()[int(quantile * self.size)]

    def snap(self, value: Any) -> Any:
        """`value`, drawn from this distribution, as the sweep file would write it: 0.15 for 0.15000000000000002."""
        if self.step is None or self.kind == "choice":
            return value
        return self._rung(round((value - self.values[0]) / self.step))

    def read(self, value: Any) -> Any:
        """`value` in this distribution's own type. Raises ValueError where it does not lie within."""
        if self.kind == "choice":
            if value in self.values:
                return self.values[self.values.index(value)]
            raise ValueError(f"{value!r} is not among the choices {list(self.values)}")
        number = _number(value, whole=self.kind in WHOLE)
        if not self.values[0] <= number <= self.values[1]:
            raise ValueError(f"{number!r} lies outside of {self.kind} {list(self.values)}")
        if self.step is not None and not math.isclose(self.snap(number), number, rel_tol=1e-9, abs_tol=1e-12):
            raise ValueError(f"{number!r} is not reached from {self.values[0]} in steps of {self.step}")
        return self.snap(number)

    def dump(self) -> dict[str, Any]:
        """As it is written in the sweep file."""
        spec: dict[str, Any] = {self.kind: list(self.values)}
        if self.step is not None:
            spec["step"] = self.step
        if self.when:
            spec["when"] = {key: values[0] if len(values) == 1 else list(values) for key, values in self.when}
        return spec

    def _rung(self, index: int) -> Any:
        if self.kind in WHOLE:
            return self.values[0] + index * int(self.step or 1)
        return float(Decimal(str(self.values[0])) + index * Decimal(str(self.step)))


def read_distribution(spec: Any, where: str, key: str = "") -> Distribution:
    """The distribution that a sweep file writes as `spec`. Raises UserError, one line that begins with `where`.

    Choices are values of the knob `key`, if there is one. Whether the keys of `when` are searched is checked with the whole
    space (conditions.check_conditions).
    """
    kinds = [name for name in spec if name in KINDS] if isinstance(spec, Mapping) else []
    if len(kinds) != 1:
        name = next(iter(spec), "") if isinstance(spec, Mapping) else ""
        near = did_you_mean(name, KINDS, "write for example {uniform: [0.1, 0.5]}")
        raise UserError(f"{where}: expected one of {', '.join(KINDS)}, not {spec!r}; {near}")
    kind: Any = kinds[0]
    check_keys(spec, where, (kind, *EXTRAS), f"beside {kind} there is {' and '.join(EXTRAS)}")
    values, step = spec[kind], spec.get("step")
    try:
        if not isinstance(values, list):
            raise ValueError(f"{kind} needs a list of values, not {shown(values)}")
        if step is not None and kind not in STEPPED:
            raise ValueError(f"{kind} takes no step; remove it, or list values in steps with choice")
        ends = _choices(values, where, key) if kind == "choice" else _ends(kind, values)
        step = None if step is None else _step(step, kind, *ends)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return Distribution(kind, ends, step, _read_when(spec.get("when"), where))


def _choices(values: list[Any], where: str, key: str) -> tuple[Any, ...]:
    for value in values:
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"a choice must be a number, a word, true, false or null, not {value!r}")
    choices = tuple(read_value(key, value, where.removesuffix(key)) for value in values)
    if len(choices) < 2 or len(set(choices)) != len(choices):  # true equals 1, for Optuna too
        raise ValueError(f"choice needs at least two different values, not {values!r}; a single one goes to base")
    return choices


def _ends(kind: str, values: list[Any]) -> tuple[Any, ...]:
    ends = tuple(_number(value, whole=kind in WHOLE) for value in values)
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise ValueError(f"{kind} needs its lower and its upper end, the lower first, not {list(ends)}")
    if kind in ("loguniform", "logint") and ends[0] <= 0:
        raise ValueError(f"{kind} needs ends above 0, not {list(ends)}")
    return ends


def _step(value: Any, kind: str, low: float, high: float) -> float | int:
    step = _number(value, whole=kind in WHOLE)
    if step <= 0:
        raise ValueError(f"step: {step} is not above 0")
    if max(-low, high) / step > (1e12 if kind in WHOLE else 1e6):  # beyond, Optuna finds values between two steps
        raise ValueError(f"step: {step} is too small; leave it out")
    steps = _steps(low, high, step)
    if steps == 0:
        raise ValueError(f"step: {step} is larger than the range from {low} to {high}; use a smaller step")
    last = Decimal(str(low)) + steps * Decimal(str(step))
    if last != Decimal(str(high)):
        raise ValueError(f"step: {high} is not reached from {low} in steps of {step}; end at {last}")
    return step


def _steps(low: float, high: float, step: float) -> int:
    return int((Decimal(str(high)) - Decimal(str(low))) // Decimal(str(step)))


def _read_when(tree: Any, where: str) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if tree is None:
        return ()
    if not isinstance(tree, Mapping) or not tree:
        raise UserError(f"{where}: when: expected searched keys and their values, as in {{objective.kind: ambient}}")
    conditions = []
    for key, values in flatten(tree).items():
        listed = values if isinstance(values, list) else [values]
        if not listed or any(isinstance(value, Mapping | list) for value in listed):
            raise UserError(f"{where}: when: {key}: expected a value or a list of values, not {shown(values)}")
        conditions.append((key, tuple(read_value(key, value, f"{where}: when: ") for value in listed)))
    return tuple(conditions)


def _number(value: Any, *, whole: bool) -> float | int:
    """Raises ValueError where a value, or word, is no number."""
    number = read_number(value)
    if not isinstance(number, int | float):
        raise ValueError(f"{shown(value)} is not a number")
    if not math.isfinite(number):
        raise ValueError(f"{number!r} is not finite")
    if whole and number != int(number):
        raise ValueError(f"{number!r} is not a whole number")
    return int(number) if whole else float(number)
