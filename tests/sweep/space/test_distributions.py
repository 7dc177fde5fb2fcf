"""Distributions as numbers: values, ladders and conditions, against listings of all there is."""

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest

from ambient_sweep.sweep.search.study import optuna_distribution
from ambient_sweep.sweep.search.tpe import estimator
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.distributions import Distribution, read_distribution

ALL = [
    Distribution("uniform", (0.05, 0.5)),
    Distribution("uniform", (0.05, 0.5), 0.05),
    Distribution("loguniform", (0.1, 3.0)),
    Distribution("int", (1, 9)),
    Distribution("int", (1, 9), 4),
    Distribution("logint", (1, 64)),
    Distribution("choice", ("a", True, 2, None)),
]


def draw(distribution: Distribution, share: float) -> Any:
    return distribution.snap(estimator(optuna_distribution(distribution)).draw_evenly(share))


@pytest.mark.parametrize("distribution", ALL, ids=lambda d: f"{d.kind}-{d.step}")
def test_every_share_gives_a_value_that_lies_within(distribution: Distribution) -> None:
    shares = [0.0, math.nextafter(1, 0), *np.random.default_rng(0).random(2000)]
    values = [draw(distribution, float(share)) for share in shares]
    assert all(distribution.read(value) == value for value in values)
    assert {str(v) for v in distribution.values} <= {str(v) for v in values} or math.isinf(distribution.size)
    if not math.isinf(distribution.size):
        assert {str(v) for v in values} == {str(v) for v in distribution.grid()}
        assert len(distribution.grid()) == distribution.size
    assert read_distribution(distribution.dump(), "here") == distribution


def test_values_are_drawn_evenly_on_their_scale() -> None:
    shares = (np.arange(6000) + 0.5) / 6000
    for distribution, wanted in ((ALL[1], 600), (ALL[3], 6000 / 9), (ALL[4], 2000), (ALL[6], 1500)):
        values = [str(draw(distribution, float(s))) for s in shares]
        assert all(abs(values.count(str(v)) - wanted) <= 1 for v in distribution.grid())
    logs = np.log([draw(ALL[2], float(s)) for s in shares])
    assert np.allclose(np.diff(logs), np.diff(logs)[0])


@pytest.mark.parametrize("distribution", ALL, ids=lambda d: f"{d.kind}-{d.step}")
def test_quantiles_are_those_of_the_samplers(distribution: Distribution) -> None:
    shares = (np.arange(500) + 0.5) / 500
    drawn = [distribution.at(float(share)) for share in shares]
    assert all(distribution.read(value) == value for value in (*drawn, distribution.at(0.0)))
    other = [draw(distribution, float(share)) for share in shares]
    if distribution.kind == "choice":
        assert sorted(map(str, drawn)) == sorted(map(str, other))
    else:
        assert np.allclose(drawn, other, atol=0 if math.isinf(distribution.size) else distribution.step or 1)
        assert np.mean([a == pytest.approx(b) for a, b in zip(drawn, other, strict=True)]) > 0.9


def test_a_ladder_has_the_values_that_a_person_would_write() -> None:
    ladder = Distribution("uniform", (0.05, 0.5), 0.05)
    assert list(ladder.grid()) == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
    assert ladder.snap(0.05 + 2 * 0.05) == 0.15 != 0.05 + 2 * 0.05


# -- conditions -----------------------------------------------------------------------------------------------------

SPACE = {
    "a": Distribution("choice", ("x", "y", "z")),
    "b": Distribution("int", (1, 3), when=(("a", ("x", "y")),)),
    "c": Distribution("choice", (True, False), when=(("b", (2,)),)),
    "d": Distribution("uniform", (0.0, 1.0), 0.5, (("a", ("z",)),)),
    "e": Distribution("int", (5, 6), when=(("b", (2, 3)), ("a", ("y",)))),
}


def everything(space: dict[str, Distribution]) -> list[dict[str, Any]]:
    """The slow way: all products, what is not active dropped until nothing changes."""
    found: list[dict[str, Any]] = []
    for values in itertools.product(*(d.grid() for d in space.values())):
        config = dict(zip(space, values, strict=True))
        while True:
            kept = {k: v for k, v in config.items() if all(config.get(p) in wanted for p, wanted in space[k].when)}
            if kept == config:
                break
            config = kept
        if config not in found:
            found.append(config)
    return found


def test_all_configs_of_a_conditional_space_once() -> None:
    listed = list(conditions.configs(SPACE))
    assert sorted(map(str, listed)) == sorted(map(str, everything(SPACE)))
    assert len(listed) == conditions.size(SPACE) == len(everything(SPACE))
    assert math.isinf(conditions.size({**SPACE, "f": Distribution("uniform", (0, 1), when=(("a", ("x",)),))}))


def test_what_is_not_active_falls_away_through_chains() -> None:
    rng = random.Random(0)
    known = everything(SPACE)
    for _ in range(300):
        values = {key: rng.choice(list(d.grid())) for key, d in SPACE.items()}
        assert conditions.active(SPACE, values) in known
        assert conditions.active(SPACE, {**values, "other": 1})["other"] == 1


def test_order_and_types_of_conditions_are_put_right() -> None:
    space = {
        "late": Distribution("int", (0, 1), when=(("early", ("2e-1",)),)),
        "early": Distribution("uniform", (0.1, 0.3), 0.1),
    }
    checked = conditions.check_conditions(space, "here")
    assert list(checked) == ["early", "late"]
    assert checked["late"].when == (("early", (0.2,)),)
