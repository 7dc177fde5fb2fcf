"""Conditional spaces: which searched keys are active beside which values, and all configs of a finite space."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ambient_sweep.config.values import did_you_mean
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space.distributions import Distribution

Space = Mapping[str, Distribution]


def check_conditions(space: dict[str, Distribution], where: str) -> dict[str, Distribution]:
    """The space with the values of every `when` in their keys' own types, and keys after those that they hang on.

    Raises UserError, one line, for conditions on keys that are not searched, on values that cannot be drawn, and in
    circles.
    """
    read = {key: replace(d, when=_read_when(space, d, f"{where}: space.{key}: when")) for key, d in space.items()}
    ordered: dict[str, Distribution] = {}
    while len(ordered) < len(read):
        left = [key for key in read if key not in ordered]
        ready = [key for key in left if all(parent in ordered for parent, _ in read[key].when)]
        if not ready:
            raise UserError(f"{where}: space: the conditions of {', '.join(left)} go in a circle; remove one")
        ordered[ready[0]] = read[ready[0]]
    return ordered


def _read_when(space: Space, distribution: Distribution, where: str) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    read = []
    for parent, values in distribution.when:
        if parent not in space:
            near = did_you_mean(parent, space, "a condition names a key of the space")
            raise UserError(f"{where}: {parent}: is not searched; {near}")
        if math.isinf(space[parent].size):
            kind = space[parent].kind
            raise UserError(f"{where}: {parent}: {kind} has no step, so no value is ever met; give it one")
        try:
            read.append((parent, tuple(map(space[parent].read, values))))
        except ValueError as error:
            raise UserError(f"{where}: {parent}: {error}") from None
    return tuple(read)


def is_active(distribution: Distribution, values: Mapping[str, Any]) -> bool:
    """Whether a key is drawn beside `values`, which hold the active keys before it."""
    return all(parent in values and values[parent] in wanted for parent, wanted in distribution.when)


def active(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those of searched keys that are not active beside them; keys outside the space stay."""
    kept = {key: value for key, value in values.items() if key not in space}
    for key, distribution in space.items():
        if key in values and is_active(distribution, kept):
            kept[key] = values[key]
    return {key: kept[key] for key in values if key in kept}


def size(space: Space) -> float:
    """How many different configs the space holds; inf where an active key is a real number."""
    parents = {parent for distribution in space.values() for parent, _ in distribution.when}
    total: float = 0
    for values in _assignments(space, [key for key in space if key in parents], {}):
        free = (d for key, d in space.items() if key not in parents and is_active(d, values))
        total += math.prod(distribution.size for distribution in free)
    return total


def configs(space: Space) -> Iterator[dict[str, Any]]:
    """Every config of a finite space once, the last key changing first. Raises ValueError for a space of real numbers."""
    return _assignments(space, list(space), {})


def _assignments(space: Space, keys: list[str], values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not keys:
        yield values
        return
    key, *rest = keys
    choices = ({key: value} for value in space[key].grid()) if is_active(space[key], values) else [{}]
    for choice in choices:
        yield from _assignments(space, rest, values | choice)
