"""The corners of a search space, where its extremes meet: every config there must be one that can be trained."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ambient_sweep.config import Config
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import Sweep, values_text
from ambient_sweep.sweep.space.distributions import Distribution

CORNERS = 2048  # of a space that has more, so many are drawn
BETWEEN = 16  # whole numbers between the ends of a range, from its lower end


def check_space(sweep: Sweep) -> list[Config]:
    """The configs at every corner of the space, of every control and every point.

    Raises one UserError that names the first failing values and the complaint.
    """
    configs = []
    try:
        sweep.config_for({})
        base_complaint = None
    except UserError as error:
        base_complaint = str(error)
    for label, values in itertools.chain(_fixed_and_points(sweep), _corners(sweep.space)):
        try:
            configs.append(sweep.config_for(values))
        except UserError as error:
            if str(error) == base_complaint:
                raise
            complaint = str(error).removeprefix(f"{sweep.where}: ")
            raise UserError(f"{sweep.where}: {label or values_text(values)}: {complaint}") from None
    return configs


def _fixed_and_points(sweep: Sweep) -> Iterator[tuple[str, dict[str, Any]]]:
    for trial in sweep.fixed_trials():
        label = "baseline" if trial.role == "baseline" else f"control {trial.label!r}"
        yield label, trial.values
    lowest = {key: distribution.values[0] for key, distribution in sweep.space.items()}
    for index, point in enumerate(sweep.points):
        yield f"points[{index}] ({values_text(point)})", sweep.active(lowest | point)


def _corners(space: Mapping[str, Distribution]) -> Iterator[tuple[None, dict[str, Any]]]:
    axes = [_axis(space, key) for key in space]
    draw = random.Random(0)
    corners: Iterable[tuple[Any, ...]] = (tuple(draw.choice(axis) for axis in axes) for _ in range(CORNERS))
    if math.prod(len(axis) for axis in axes) <= CORNERS:
        corners = itertools.product(*axes)
    seen = set()
    for corner in corners:
        values = conditions.active(space, dict(zip(space, corner, strict=True)))
        mark = tuple((key, type(value), value) for key, value in values.items())
        if mark not in seen:  # corners that differ in keys that are not active are one
            seen.add(mark)
            yield None, values


def _axis(space: Mapping[str, Distribution], key: str) -> list[Any]:
    """The values of a key that corners are made of: its ends or choices, values that other keys hang on, and whole numbers
    between the ends, since a knob may want multiples."""
    distribution = space[key]
    wanted = [value for d in space.values() for parent, values in d.when if parent == key for value in values]
    between = distribution.grid()[1:-1][:BETWEEN] if distribution.kind in ("int", "logint") else ()
    return [*distribution.values, *dict.fromkeys(v for v in (*wanted, *between) if v not in distribution.values)]
