import numpy as np
import pytest
from optuna.samplers.nsgaii._elite_population_selection_strategy import _calc_crowding_distance
from optuna.trial import create_trial

from ambient_sweep import pareto

INF = np.inf


def front_values(rng: np.random.Generator, objectives: int = 2) -> np.ndarray:
    values = rng.normal(size=(int(rng.integers(1, 30)), objectives))
    if rng.random() < 0.5:
        values = rng.integers(0, 6, values.shape).astype(float)
    return values


def test_crowding_distance_equals_optuna_on_fronts_without_ties() -> None:
    rng = np.random.default_rng(30)
    for _ in range(300):
        values = front_values(rng, int(rng.integers(2, 4)))
        front = np.unique(values[pareto.pareto_mask(values)], axis=0)
        if len(front) == 1 or any(len(np.unique(column)) < len(column) for column in front.T):
            continue  # 0 for one point, and with ties Optuna's depends on the order of the trials
        trials = [create_trial(values=list(row)) for row in front]
        for number, trial in enumerate(trials):
            trial.number = number
        expected = _calc_crowding_distance(trials)
        assert pareto.crowding_distance(front) == pytest.approx(np.array([expected[n] for n in range(len(front))]))


def test_crowding_distance_by_hand() -> None:
    assert pareto.crowding_distance([[0, 4], [1, 2], [4, 0]]).tolist() == [INF, 2.0, INF]
    assert pareto.crowding_distance([[0, 4], [1, 2], [1, 2], [4, 0]]).tolist() == [INF, 2.0, 2.0, INF]
    assert pareto.crowding_distance([[0, 4], [1, 2], [4, 0]], scales=[2.0, 8.0]).tolist() == [INF, 2.5, INF]
    # Each front by itself: the second one is not crowded by the first.
    both = pareto.crowding_distance([[0, 4], [1, 2], [4, 0], [10, 14], [13, 11], [14, 10], [np.nan, 0]])
    assert both.tolist() == [INF, 2.0, INF, INF, 2.0, INF, 0.0]
    assert pareto.crowding_distance([[1, 1], [1, 1]]).tolist() == [INF, INF]
    # A third objective that all share tells nothing, and makes no row an end.
    assert pareto.crowding_distance([[0, 4, 7], [1, 2, 7], [4, 0, 7]]).tolist() == [INF, 2.0, INF]


def net_by_definition(front: np.ndarray) -> list[tuple[float, ...]]:
    """Rows in the order of the greedy choice, one by one."""
    rows = sorted({tuple(row) for row in front})
    spans = [max(c) - min(c) or 1.0 for c in zip(*rows, strict=True)]

    def distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        return sum(((x / s) - (y / s)) ** 2 for x, y, s in zip(a, b, spans, strict=True))

    chosen = [rows.pop(0)]
    while rows:
        chosen.append(max(rows, key=lambda row: (min(distance(row, c) for c in chosen), [-x for x in row])))
        rows.remove(chosen[-1])
    return chosen


def test_epsilon_net_takes_the_farthest_row_each_time() -> None:
    rng = np.random.default_rng(31)
    for _ in range(300):
        values = front_values(rng, int(rng.integers(2, 4)))
        ranks, places = pareto.nondominated_rank(values), pareto.epsilon_net_place(values)
        for rank in range(ranks.max() + 1):
            order = net_by_definition(values[ranks == rank])
            expected = [order.index(tuple(row)) for row in values[ranks == rank]]
            assert places[ranks == rank].tolist() == expected


@pytest.mark.parametrize("measure", [pareto.crowding_distance, pareto.epsilon_net_place])
def test_spread_depends_on_nothing_but_the_values(measure) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(32)
    for _ in range(300):
        values = front_values(rng, int(rng.integers(1, 4)))
        values[rng.random(len(values)) < 0.1, 0] = np.nan
        order, units = rng.permutation(len(values)), 2.0 ** rng.integers(-4, 5, values.shape[1])
        expected = measure(values)
        assert measure(values[order]).tolist() == expected[order].tolist()
        assert measure(values * units).tolist() == expected.tolist()
        fixed = measure(values, scales=np.ones(len(units)))
        assert measure(values * units, scales=units).tolist() == fixed.tolist()
    assert measure(np.empty((0, 2))).tolist() == []


def test_attainment_counts_the_runs() -> None:
    rng = np.random.default_rng(33)
    for _ in range(300):
        fronts = [front_values(rng) for _ in range(int(rng.integers(1, 8)))]
        at, level = rng.integers(-2, 7, 5) + rng.choice([0.0, 0.5]), rng.choice([0.2, 0.25, 0.5, 0.7, 1.0])
        surface = pareto.attainment(fronts, at, level=level)
        for x, y in zip(at, surface, strict=True):
            reached = [min((b for a, b in front if a <= x), default=INF) for front in fronts]

            def share(height: float, reached: list[float] = reached) -> float:
                return float(np.mean([low <= height for low in reached]))

            assert y == INF or share(y) >= level - 1e-12
            below = [low for low in reached if low < y]
            assert not below or share(max(below)) < level - 1e-12, "the lowest such height"


def test_attainment_of_spoiled_runs_and_bad_arguments() -> None:
    assert pareto.attainment([[[np.nan, 0.0], [1.0, 2.0]], np.empty((0, 2))], [0.0, 1.0]).tolist() == [INF, 2.0]
    with pytest.raises(ValueError, match="at least one run"):
        pareto.attainment([], [0.0])
    with pytest.raises(ValueError, match="level"):
        pareto.attainment([[[0.0, 0.0]]], [0.0], level=0.0)
    with pytest.raises(ValueError, match="2 objectives"):
        pareto.attainment([[[0.0, 0.0, 0.0]]], [0.0])
