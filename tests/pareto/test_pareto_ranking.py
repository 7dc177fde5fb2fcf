"""Rows ranked one after another against sorting them all, over long sequences."""

import math
from typing import Any

import numpy as np
import pytest

from ambient_sweep.pareto import Ranking, nondominated_rank, places
from ambient_sweep.pareto.fronts import Fronts

KINDS = ("lattice", "normal", "line", "improving", "worsening")


def rows(rng: np.random.Generator, kind: str, count: int, objectives: int) -> np.ndarray:
    """Values with many ties and duplicates, or none; on one front; each dominating, or dominated by, most before."""
    if kind == "lattice":
        values = rng.integers(-4, 5, (count, objectives)).astype(float)
    elif kind == "line":
        first = rng.integers(0, 40, count) / 8
        values = np.column_stack([first, -first, *rng.integers(0, 2, (1, count))])[:, :objectives]
    else:
        drift = {"normal": 0.0, "improving": -0.05, "worsening": 0.05}[kind]
        values = rng.normal(size=(count, objectives)) + drift * np.arange(count)[:, None]
    repeated = rng.random(count) < 0.15
    values[repeated] = values[rng.integers(0, count, repeated.sum())]
    values[rng.random(count) < 0.1] *= -0.0  # the sign of a zero means nothing
    broken = np.flatnonzero(rng.random(count) < 0.05)
    values[broken, rng.integers(0, objectives, len(broken))] = rng.choice([math.nan, math.inf, -math.inf], len(broken))
    return values


@pytest.mark.parametrize("ties", ["crowding", "epsilon"])
@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_ranking_one_by_one_equals_sorting_all(kind: str, objectives: int, ties: Any) -> None:
    rng = np.random.default_rng([objectives, KINDS.index(kind), len(ties)])
    for scales in (None, (0.5, 3.0, 1.0)[:objectives]):
        count = 150
        values, feasible = rows(rng, kind, count, objectives), rng.random(count) < rng.choice([0.3, 0.9, 1.0])
        ranking = Ranking(objectives, ties=ties, scales=scales)
        for n in range(count):
            ranking.add(values[n], bool(feasible[n]))
            if n % 10 and n > 12:
                continue
            # As a rung asks: for the newest, at any number kept; for others and all of them, now and then.
            expected = places(values[: n + 1], feasible[: n + 1], ties=ties, scales=scales)
            keep, row = int(rng.integers(0, n + 2)), int(rng.integers(0, n + 1))
            assert ranking.is_below(n, keep) == (expected[n] < keep)
            assert ranking.is_below(row, keep) == (expected[row] < keep)
            assert ranking.below(keep).tolist() == (expected < keep).tolist()
            assert ranking.place(row) == expected[row]
        expected = places(values, feasible, ties=ties, scales=scales)
        assert [ranking.place(row) for row in range(count)] == expected.tolist()
        finite = np.isfinite(values).all(axis=1)
        assert np.array_equal(ranking.values[finite], values[finite])
        assert np.isnan(ranking.values[~finite]).all()
        assert np.array_equal(ranking.feasible, feasible)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_thousands_of_rows_have_the_ranks_of_sorting_them(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for kind in ("lattice", "normal", "improving", "worsening"):
        values = rows(rng, kind, 1500, objectives)
        values = values[np.isfinite(values).all(axis=1)]
        fronts = Fronts(objectives)
        for n, row in enumerate(values):
            fronts.add(row)
            if n % 250 == 0 or n == len(values) - 1:
                assert np.array_equal(fronts.ranks, nondominated_rank(values[: n + 1]))
