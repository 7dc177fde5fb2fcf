import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

from ambient_sweep import pareto


def peel(values: np.ndarray) -> list[int]:
    """Ranks by the definition: take off the front, count, repeat."""
    n = len(values)
    dominates = [
        [all(values[i] <= values[j]) and any(values[i] < values[j]) for j in range(n)] for i in range(n)
    ]  # fmt: skip
    ranks, left, rank = [-1] * n, set(range(n)), 0
    while left:
        front = {j for j in left if not any(dominates[i][j] for i in left)}
        for j in front:
            ranks[j] = rank
        left, rank = left - front, rank + 1
    return ranks


def random_values(rng: np.random.Generator) -> np.ndarray:
    """A small matrix, mostly from a coarse grid so that ties and duplicates abound."""
    shape = (int(rng.integers(1, 13)), int(rng.integers(1, 5)))
    return rng.integers(-3, 4, shape).astype(float) if rng.random() < 0.7 else rng.normal(size=shape)


def test_rank_equals_peeling_and_optuna() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1500):
        values = random_values(rng)
        ranks = pareto.nondominated_rank(values)
        assert ranks.tolist() == peel(values) == _fast_non_domination_rank(values).tolist()
        assert pareto.pareto_mask(values).tolist() == (ranks == 0).tolist()


def test_rank_of_a_large_set_equals_optuna() -> None:
    values = np.random.default_rng(1).normal(size=(800, 3)).round(1)
    assert pareto.nondominated_rank(values).tolist() == _fast_non_domination_rank(values).tolist()


def test_rank_does_not_change_with_order_scale_or_shift() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        values = random_values(rng)
        ranks = pareto.nondominated_rank(values)
        order = rng.permutation(len(values))
        assert pareto.nondominated_rank(values[order]).tolist() == ranks[order].tolist()
        stretched = values * 2.0 ** rng.integers(-5, 6, values.shape[1]) + 8.0  # exact in binary, so ties stay ties
        if np.array_equal(values, values.round()):
            assert pareto.nondominated_rank(stretched).tolist() == ranks.tolist()
        assert pareto.nondominated_rank(values[:, ::-1]).tolist() == ranks.tolist()


def test_rows_that_are_not_finite_rank_last_and_disturb_nothing() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        values = random_values(rng)
        bad = rng.random(len(values)) < 0.4
        spoiled = values.copy()
        spoiled[bad, rng.integers(values.shape[1])] = rng.choice([np.nan, np.inf, -np.inf])
        ranks = pareto.nondominated_rank(spoiled)
        assert ranks[~bad].tolist() == pareto.nondominated_rank(values[~bad]).tolist()
        assert set(ranks[bad]) <= {max(1, ranks[~bad].max(initial=-1) + 1)}
        assert not pareto.pareto_mask(spoiled)[bad].any()
    assert pareto.nondominated_rank([[np.nan, 0.0]]).tolist() == [1]


def test_negative_zero_ties_with_zero() -> None:
    assert pareto.nondominated_rank([[-0.0, 1.0], [0.0, 1.0], [0.0, 2.0]]).tolist() == [0, 0, 1]


def test_empty_and_misshapen() -> None:
    assert pareto.nondominated_rank(np.empty((0, 2))).tolist() == []
    assert pareto.hypervolume(np.empty((0, 2)), [1.0, 1.0]) == 0.0
    for call in (pareto.nondominated_rank, pareto.pareto_mask, pareto.knee):
        with pytest.raises(ValueError, match="values"):
            call([1.0, 2.0])
    for reference in ([1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="reference"):
            pareto.hypervolume([[0.0, 0.0]], reference)


def test_hypervolume_counts_the_cells_of_a_grid() -> None:
    rng = np.random.default_rng(4)
    for _ in range(300):
        m = int(rng.integers(1, 5))
        values = rng.integers(0, 6, (int(rng.integers(1, 9)), m)).astype(float)
        cells = np.stack(np.meshgrid(*[np.arange(5)] * m, indexing="ij"), axis=-1).reshape(-1, 1, m)
        expected = int((cells >= values).all(axis=2).any(axis=1).sum())
        assert pareto.hypervolume(values, np.full(m, 5.0)) == expected


def test_hypervolume_equals_optuna_and_ignores_order_and_dominated_rows() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        m = int(rng.integers(2, 5))
        values, reference = rng.normal(size=(int(rng.integers(1, 16)), m)), np.full(m, 1.0)
        volume = pareto.hypervolume(values, reference)
        inside = values[(values < reference).all(axis=1)]
        expected = compute_hypervolume(inside, reference) if len(inside) else 0.0
        assert volume == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert pareto.hypervolume(rng.permutation(values), reference) == pytest.approx(volume, rel=1e-12)
        front = values[pareto.pareto_mask(values)]
        assert pareto.hypervolume(front, reference) == pytest.approx(volume, rel=1e-12)
        factors = rng.uniform(0.1, 10, m)
        assert pareto.hypervolume(values * factors, factors) == pytest.approx(volume * factors.prod(), rel=1e-9)


def test_hypervolume_ignores_rows_that_are_not_finite() -> None:
    values = [[0.5, 0.5], [np.nan, 0.0], [-np.inf, 0.0], [0.0, np.inf]]
    assert pareto.hypervolume(values, [1.0, 1.0]) == 0.25


def test_knee_is_the_point_farthest_from_the_line_between_the_ends() -> None:
    rng = np.random.default_rng(6)
    for _ in range(500):
        values = rng.normal(size=(int(rng.integers(1, 20)), 2))
        front = np.flatnonzero(pareto.pareto_mask(values))
        first, last = values[front[values[front, 0].argmin()]], values[front[values[front, 0].argmax()]]
        span = np.where(last == first, 1.0, np.abs(last - first))
        along, best = (last - first) / span, None
        for i in front:  # twice the signed area of the triangle (first end, last end, point), positive below the line
            offset = (values[i] - first) / span
            height = (offset[0] * along[1] - offset[1] * along[0]) / max(np.hypot(*along), 1e-300)
            if best is None or height > best[0] + 1e-12 or (abs(height - best[0]) <= 1e-12 and values[i, 1] < best[1]):
                best = (height, values[i, 1], i)
        assert best is not None
        assert pareto.knee(values) == best[2]


def test_knee_does_not_change_with_order_scale_or_shift() -> None:
    rng = np.random.default_rng(7)
    for _ in range(300):
        values = rng.normal(size=(int(rng.integers(1, 20)), 2))
        index, order = pareto.knee(values), rng.permutation(len(values))
        assert order[pareto.knee(values[order])] == index
        assert pareto.knee(values * [1000.0, 0.25] + [5.0, -3.0]) == index


def test_knee_of_small_fronts() -> None:
    assert pareto.knee([[3.0, 1.0]]) == 0
    assert pareto.knee([[1.0, 1.0], [2.0, 2.0]]) == 0
    assert pareto.knee([[1.0, 2.0], [2.0, 1.0]]) == 1, "two ends tie; the smaller second objective decides"
    assert pareto.knee([[0.0, 1.0], [0.9, 0.9], [1.0, 0.0]]) == 2, "a point beyond the line is no knee"
    assert pareto.knee([[0.0, 1.0], [0.1, 0.1], [1.0, 0.0], [0.1, 0.1]]) == 1
    assert pareto.knee([[np.nan, 0.0], [1.0, 1.0]]) == 1
    with pytest.raises(ValueError, match="no finite row"):
        pareto.knee([[np.nan, 0.0]])
    with pytest.raises(ValueError, match="2 objectives"):
        pareto.knee([[0.0, 0.0, 0.0]])


def test_scale_runs_from_0_to_1_over_the_frame() -> None:
    scaled = pareto.scale([[1.0, 5.0], [3.0, 5.0], [5.0, 6.0]], over=[[1.0, 5.0], [3.0, 5.0]])
    assert scaled.tolist() == [[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]]
