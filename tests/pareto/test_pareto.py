"""Ranks, volumes and knees against their definitions and closed forms."""

import numpy as np
import pytest
from nondominated_order import crowding, peel

from ambient_sweep import pareto

INF = np.inf


def random_values(rng: np.random.Generator, most: int = 12) -> np.ndarray:
    """Mostly from a coarse grid, so that ties and duplicates abound; or one large front with points just behind it."""
    rows = int(rng.integers(1, most + 1))
    values = rng.normal(size=(rows, 2))
    shape = rng.integers(4)
    if shape < 2:
        values = rng.integers(-3, 4, values.shape).astype(float) / 8
    elif shape == 2:
        values = np.abs(values)
        values = -values / np.linalg.norm(values, axis=1, keepdims=True) + rng.integers(0, 2, (rows, 1)) * 1e-3
    return np.concatenate([values, values[rng.integers(0, rows, rows // 4)]])


def spoiled_values(rng: np.random.Generator, share: float = 0.05) -> np.ndarray:
    values = random_values(rng)
    values[rng.random(values.shape) < share] = rng.choice([np.nan, np.inf, -np.inf])
    return values


# -- dominance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "cases"), [(12, 600), (400, 30)])
def test_rank_equals_peeling(most: int, cases: int) -> None:
    rng = np.random.default_rng(most)
    for _ in range(cases):
        values = random_values(rng, most)
        ranks = pareto.nondominated_rank(values)
        assert ranks.tolist() == peel(values)
        assert pareto.pareto_mask(values).tolist() == (ranks == 0).tolist()


def test_rows_that_are_not_finite_rank_last_and_disturb_nothing() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        values = spoiled_values(rng, 0.3)
        bad = ~np.isfinite(values).all(axis=1)
        ranks = pareto.nondominated_rank(values)
        assert ranks[~bad].tolist() == pareto.nondominated_rank(values[~bad]).tolist()
        assert set(ranks[bad]) <= {max(1, ranks[~bad].max(initial=-1) + 1)}
        assert not pareto.pareto_mask(values)[bad].any()
    assert pareto.nondominated_rank([[np.nan, 0.0]]).tolist() == [1]
    assert pareto.nondominated_rank([[-0.0, 1.0], [0.0, 1.0], [0.0, 2.0]]).tolist() == [0, 0, 1]


def test_empty() -> None:
    empty = np.empty((0, 2))
    assert pareto.nondominated_rank(empty).tolist() == pareto.crowding_distance(empty).tolist() == []
    assert pareto.hypervolume(empty, [1.0, 1.0]) == 0.0
    assert pareto.contributions(empty, [1.0, 1.0]).shape == (0,)


# -- hypervolume ----------------------------------------------------------------------------------------------------


def strips(values: np.ndarray, reference: np.ndarray) -> float:
    """The dominated area, strip by strip between neighbouring first objectives: as high as the lowest point so far."""
    inside = values[(values < reference).all(axis=1)]
    edges = [*np.unique(inside[:, 0]), reference[0]]
    heights = [reference[1] - inside[inside[:, 0] <= left, 1].min() for left in edges[:-1]]
    return float(np.diff(edges) @ heights)


@pytest.mark.parametrize(("most", "cases"), [(12, 200), (300, 20)])
def test_hypervolume_is_that_of_strips_and_ignores_order_and_dominated_rows(most: int, cases: int) -> None:
    rng = np.random.default_rng(most)
    for _ in range(cases):
        values = random_values(rng, most)
        reference = np.quantile(values, 0.9, axis=0) + 1e-3
        volume = pareto.hypervolume(values, reference)
        assert volume == pytest.approx(strips(values, reference), rel=1e-10, abs=1e-12)
        front = values[pareto.pareto_mask(values)]
        assert pareto.hypervolume(rng.permutation(front), reference) == pytest.approx(volume, rel=1e-12)
        factors = rng.uniform(0.1, 10, 2)
        assert pareto.hypervolume(values * factors, reference * factors) == pytest.approx(volume * factors.prod())


def test_the_area_of_a_quarter_disc_converges_to_the_closed_form() -> None:
    angles = np.linspace(0, np.pi / 2, 302)[1:-1]
    disc = 1 - np.column_stack([np.cos(angles), np.sin(angles)])
    assert pareto.hypervolume(disc, [1.0, 1.0]) == pytest.approx(np.pi / 4, rel=5e-3)
    assert pareto.hypervolume([[0.5, 0.5], [np.nan, 0.0], [-INF, 0.0], [0.0, INF]], [1.0, 1.0]) == 0.25


def test_contributions_are_what_is_lost_without_each_row() -> None:
    rng = np.random.default_rng(23)
    for _ in range(200):
        values = random_values(rng)
        front = values[pareto.pareto_mask(values)]
        reference = front.max(axis=0) + 0.25
        whole = pareto.hypervolume(front, reference)
        without = [pareto.hypervolume(np.delete(front, i, axis=0), reference) for i in range(len(front))]
        assert pareto.contributions(front, reference) == pytest.approx(whole - np.array(without), rel=1e-9, abs=1e-12)
    assert pareto.contributions([[0.0, 0.0], [0.0, 0.0], [-1.0, 0.5]], [1.0, 1.0]).tolist() == [0.0, 0.0, 0.5]


# -- a point's position on its front ----------------------------------------------------------------------------------


def test_crowding_distance_equals_the_definition_on_every_front() -> None:
    """tests/nondominated_order.py has NSGA-II's definition; with ties, Optuna's depends on the order of its trials."""
    rng = np.random.default_rng(30)
    for _ in range(200):
        values = spoiled_values(rng)
        finite = np.isfinite(values).all(axis=1)
        ranks, found = pareto.nondominated_rank(values), pareto.crowding_distance(values)
        for rank in set(ranks[finite].tolist()):
            front = finite & (ranks == rank)
            assert found[front] == pytest.approx(crowding(values[front]))
        assert not found[~finite].any()
    both = [[0, 4], [1, 2], [1, 2], [4, 0], [10, 14], [13, 11], [14, 10]]
    assert pareto.crowding_distance(both).tolist() == [INF, 2.0, 2.0, INF, INF, 2.0, INF]
    assert pareto.crowding_distance([[1, 1], [1, 1]]).tolist() == [INF, INF]


def test_scale_runs_from_0_to_1() -> None:
    assert pareto.scale([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]]).tolist() == [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]
