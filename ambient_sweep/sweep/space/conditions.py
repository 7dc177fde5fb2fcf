"""Conditional spaces: which searched keys are active beside which values, and all configs of a finite space."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space.distributions import Distribution, same

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
                raise UserError(f"{place}: is not searched; a condition names a key of the space")
            if math.isinf(space[parent].size):
                raise UserError(
                    f"{place}: {space[parent].kind} has no step, so no value of it is ever met; give it one"
                )
            for value in values:
                try:
                    space[parent].read(value)
                except ValueError as error:
                    raise UserError(f"{place}: {value!r} {error}") from None
    ordered: dict[str, Distribution] = {}
    while len(ordered) < len(space):
        ready = [
            key for key, d in space.items() if key not in ordered and all(parent in ordered for parent, _ in d.when)
        ]
        if not ready:
            circle = ", ".join(key for key in space if key not in ordered)
            raise UserError(f"{where}: space: the conditions of {circle} go in a circle; remove one")
        for key in ready[:1]:
            d = space[key]
            when = tuple((parent, tuple(space[parent].read(v) for v in values)) for parent, values in d.when)
            ordered[key] = Distribution(d.kind, d.values, d.step, when)
    return ordered


def is_active(distribution: Distribution, values: Mapping[str, Any]) -> bool:
    """Whether a key is drawn beside `values`, which hold the active keys before it."""
    return all(
        parent in values and any(same(values[parent], allowed) for allowed in wanted)
        for parent, wanted in distribution.when
    )


def active(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those of searched keys that are not active beside them; keys outside the space stay."""
    if not any(d.when for d in space.values()):
        return dict(values)
    kept = {key: value for key, value in values.items() if key not in space}
    for key, distribution in space.items():
        if key in values and is_active(distribution, kept):
            kept[key] = values[key]
    return {key: kept[key] for key in values if key in kept}


def parents(space: Space) -> set[str]:
    """The keys that others hang on."""
    return {parent for distribution in space.values() for parent, _ in distribution.when}


def size(space: Space) -> float:
    """How many different configs the space holds; inf where an active key is a real number."""
    hung_on = parents(space)
    if not hung_on:
        return math.prod(distribution.size for distribution in space.values())
    total = 0.0
    for values in _assignments(space, [key for key in space if key in hung_on], {}):
        free = (d for key, d in space.items() if key not in hung_on and is_active(d, values))
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
