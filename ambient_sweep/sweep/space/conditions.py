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
    for key, distribution in space.items():
        for parent, values in distribution.when:
            place = f"{where}: space.{key}: when: {parent}"
            if parent not in space:
                near = did_you_mean(parent, space, "a condition names a key of the space")
                raise UserError(f"{place}: is not searched; {near}")
            if math.isinf(space[parent].size):
                raise UserError(f"{place}: {space[parent].kind} has no step, so no value is ever met; give it one")
            for value in values:
                try:
                    space[parent].read(value)
                except ValueError as error:
                    raise UserError(f"{place}: {value!r} {error}") from None
    ordered: dict[str, Distribution] = {}
    while len(ordered) < len(space):
        left = [key for key in space if key not in ordered]
        ready = [key for key in left if all(parent in ordered for parent, _ in space[key].when)]
        if not ready:
            raise UserError(f"{where}: space: the conditions of {', '.join(left)} go in a circle; remove one")
        key = ready[0]
        when = tuple((parent, tuple(map(space[parent].read, values))) for parent, values in space[key].when)
        ordered[key] = replace(space[key], when=when)
    return ordered


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
        yield dict(values)
        return
    key, rest = keys[0], keys[1:]
    if not is_active(space[key], values):
        yield from _assignments(space, rest, values)
        return
    for value in space[key].grid():
        yield from _assignments(space, rest, {**values, key: value})
