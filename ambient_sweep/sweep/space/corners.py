"""The corners of a search space, where its extremes meet: every config there must be one that can be trained."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import Sweep, values_text
from ambient_sweep.sweep.space.distributions import Distribution

CORNER_CAP = 4096  # above this many corners, single-axis extremes and a sample of corners are checked
INTERIOR_CAP = 64  # whole numbers inside a range that are checked too, from its lower end


def check_corners(sweep: Sweep) -> int:
    """Builds the config at every corner of the space, every control and every point; returns how many.

    Raises one UserError that names the first failing values and the complaint.
    """
    count = 0
    try:
        sweep.config_for({})
        base_complaint = None
    except UserError as error:
        base_complaint = str(error)
    for label, values in itertools.chain(_fixed_and_points(sweep), _corners(sweep.space)):
        try:
            sweep.config_for(values)
        except UserError as error:
            if str(error) == base_complaint:
                raise
            complaint = str(error).removeprefix(f"{sweep.name}: ")
            raise UserError(f"{sweep.name}: {label or values_text(values)}: {complaint}") from None
        count += 1
    return count


def _fixed_and_points(sweep: Sweep) -> Iterator[tuple[str, dict[str, Any]]]:
    for trial in sweep.fixed_trials():
        label = "baseline" if trial.role == "baseline" else f"control {trial.label!r}"
        yield label, trial.values
    lowest = {key: distribution.values[0] for key, distribution in sweep.space.items()}
    for index, point in enumerate(sweep.points):
        yield f"points[{index}] ({values_text(point)})", sweep.active(lowest | point)


def _corners(space: Mapping[str, Distribution]) -> Iterator[tuple[None, dict[str, Any]]]:
    axes = [_axis(space, key) for key in space]
    beside = [_beside(space, axes, key) for key in space]
    if math.prod(len(axis) for axis in axes) <= CORNER_CAP:
        corners: Iterable[tuple[Any, ...]] = itertools.product(*axes)
    else:
        single = ((*beside[i][:i], value, *beside[i][i + 1 :]) for i, axis in enumerate(axes) for value in axis)
        draw = random.Random(0)
        sample = (tuple(draw.choice(axis) for axis in axes) for _ in range(CORNER_CAP))
        corners = itertools.chain(single, sample)
    within = (  # a knob may want multiples, which the ends alone would not show
        (*beside[i][:i], value, *beside[i][i + 1 :])
        for i, distribution in enumerate(space.values())
        if distribution.kind in ("int", "logint")
        for value in distribution.grid()[1:-1][:INTERIOR_CAP]
    )
    conditional = any(distribution.when for distribution in space.values())
    seen = set()
    for corner in itertools.chain(corners, within):
        values = conditions.active(space, dict(zip(space, corner, strict=True)))
        if conditional:  # corners that differ in keys that are not active are one
            mark = tuple((key, type(value), value) for key, value in values.items())
            if mark in seen:
                continue
            seen.add(mark)
        yield None, values


def _axis(space: Mapping[str, Distribution], key: str) -> tuple[Any, ...]:
    """The values of a key that corners are made of: its ends or choices, and those that other keys hang on."""
    distribution = space[key]
    wanted = [value for d in space.values() for parent, values in d.when if parent == key for value in values]
    return (*distribution.values, *dict.fromkeys(v for v in wanted if v not in distribution.values))


def _beside(space: Mapping[str, Distribution], axes: Sequence[tuple[Any, ...]], key: str) -> tuple[Any, ...]:
    """The first values of all keys, but for those that must have another one for `key` to be active."""
    needed: dict[str, Any] = {}
    chain = list(space[key].when)
    while chain:
        parent, values = chain.pop()
        needed.setdefault(parent, values[0])
        chain += space[parent].when
    return tuple(needed.get(other, axis[0]) for other, axis in zip(space, axes, strict=True))
