"""Rows ranked as they come, against the definition applied to all of them."""

import math

import numpy as np
import pytest
from nondominated_order import places

from ambient_sweep.pareto import Ranking

KINDS = ("lattice", "normal", "line", "improving", "worsening")


def rows(rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
    """Values with many ties and duplicates, or none; on one front; each dominating, or dominated by, most before."""
    if kind == "lattice":
        values = rng.integers(-4, 5, (count, 2)).astype(float)
    elif kind == "line":
        values = np.outer(rng.integers(0, 40, count) / 8, [1, -1])
    else:
        drift = {"normal": 0.0, "improving": -0.05, "worsening": 0.05}[kind]
        values = rng.normal(size=(count, 2)) + drift * np.arange(count)[:, None]
    repeated = rng.random(count) < 0.15
    values[repeated] = values[rng.integers(0, count, repeated.sum())]
    values[rng.random(count) < 0.1] *= -0.0  # the sign of a zero means nothing
    broken = np.flatnonzero(rng.random(count) < 0.05)
    values[broken, rng.integers(0, 2, len(broken))] = rng.choice([math.nan, math.inf, -math.inf], len(broken))
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_ranking_as_rows_come_equals_the_definition(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    count = 70
    values, feasible = rows(rng, kind, count), rng.random(count) < rng.choice([0.3, 0.9, 1.0])
    ranking = Ranking()
    for n in range(count):
        ranking.add(values[n], bool(feasible[n]))
        if n % 7 and n > 12:
            continue
        expected = np.array(places(values[: n + 1], feasible[: n + 1]))
        keep, row = int(rng.integers(0, n + 2)), int(rng.integers(0, n + 1))
        assert [ranking.place(each) for each in range(n + 1)] == expected.tolist()
        assert [ranking.is_below(each, keep) for each in (n, row)] == [expected[n] < keep, expected[row] < keep]
        assert ranking.below(keep).tolist() == (expected < keep).tolist()
        assert ranking.least_place(row) <= expected[row]
    finite = np.isfinite(values).all(axis=1)
    assert np.array_equal(ranking.values[finite], values[finite])
    assert np.isnan(ranking.values[~finite]).all()
    assert np.array_equal(ranking.feasible, feasible)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_counted_change_fronts_and_crowding_but_no_count(kind: str) -> None:
    """A row's place among the counted ones is its place among all, less the uncounted ones that are better."""
    rng = np.random.default_rng(100 + KINDS.index(kind))
    values, feasible, counted = rows(rng, kind, 60), rng.random(60) < 0.8, rng.random(60) < 0.5
    ranking = Ranking()
    for each in zip(values, feasible, counted, strict=True):
        ranking.add(*each)
    all_places = np.array(places(values, feasible))
    expected = [int((counted & (all_places < place)).sum()) for place in all_places]
    assert [ranking.place(row) for row in range(60)] == expected
    for keep in range(32):
        assert ranking.below(keep).tolist() == [place < keep for place in expected]
