"""Ranks, fronts and volumes beyond small matrices: the fast paths against the definition and against Optuna."""

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

from ambient_sweep import pareto
from ambient_sweep.pareto import dominance


def grid_values(rng: np.random.Generator, rows: int, objectives: int) -> np.ndarray:
    """Ties in single objectives, duplicates, fronts and clouds; the shape is drawn too."""
    values = rng.normal(size=(rows, objectives))
    shape = rng.integers(4)
    if shape == 0:
        values = rng.integers(-4, 5, values.shape).astype(float)
    elif shape == 1:
        values = values.round(1)
    elif shape == 2:  # one large front, with rows that are dominated by a hair
        values = np.abs(values)
        values = -values / np.linalg.norm(values, axis=1, keepdims=True) + rng.integers(0, 2, (rows, 1)) * 1e-3
    return np.concatenate([values, values[rng.integers(0, rows, rows // 4)]])


def test_front_by_divide_and_conquer_is_the_front() -> None:
    rng = np.random.default_rng(20)
    for _ in range(1500):
        values = grid_values(rng, int(rng.integers(1, 60)), 3)
        rows = np.unique(values, axis=0)
        assert dominance._front_3d(rows).tolist() == dominance._front_nd(rows).tolist()
    for rows_ in (257, 1000, 4097):
        values = grid_values(rng, rows_, 3)
        values[rng.random(len(values)) < 0.05, 1] = np.nan
        spoiled = ~np.isfinite(values).all(axis=1)
        expected = np.zeros(len(values), dtype=bool)
        expected[~spoiled] = _fast_non_domination_rank(values[~spoiled]) == 0
        assert pareto.pareto_mask(values).tolist() == expected.tolist()


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_ranks_of_hundreds_of_rows_equal_optuna(objectives: int) -> None:
    rng = np.random.default_rng(21)
    for _ in range(60):
        values = grid_values(rng, int(rng.integers(50, 400)), objectives)
        assert pareto.nondominated_rank(values).tolist() == _fast_non_domination_rank(values).tolist()


def test_hypervolume_of_hundreds_of_rows_equals_optuna() -> None:
    rng = np.random.default_rng(22)
    for objectives in (2, 3, 4):
        for _ in range(40 if objectives < 4 else 6):
            values = grid_values(rng, int(rng.integers(50, 300)) if objectives < 4 else 25, objectives)
            reference = np.quantile(values, 0.9, axis=0) + 1e-3
            inside = values[(values < reference).all(axis=1)]
            expected = compute_hypervolume(inside, reference) if len(inside) else 0.0
            assert pareto.hypervolume(values, reference) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_volume_of_a_sphere_octant_converges_to_the_closed_form() -> None:
    # Points on the octant of a unit sphere around the reference, dense: the union of boxes fills the ball's octant.
    angles = np.linspace(0, np.pi / 2, 302)[1:-1]
    disc = 1 - np.column_stack([np.cos(angles), np.sin(angles)])
    assert pareto.hypervolume(disc, [1.0, 1.0]) == pytest.approx(np.pi / 4, rel=5e-3)
    theta, phi = (each.reshape(-1) for each in np.meshgrid(angles, angles))
    ball = 1 - np.column_stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
    assert pareto.hypervolume(ball, [1.0, 1.0, 1.0]) == pytest.approx(np.pi / 6, rel=1.5e-2)


def spoiled_values(rng: np.random.Generator, objectives: int) -> np.ndarray:
    values = grid_values(rng, int(rng.integers(1, 14)), objectives)
    values[rng.random(values.shape) < 0.05] = rng.choice([np.nan, np.inf, -np.inf])
    return values


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_history_is_the_hypervolume_of_every_beginning(objectives: int) -> None:
    rng = np.random.default_rng(23)
    for _ in range(250):
        values, reference = spoiled_values(rng, objectives), np.full(objectives, 0.5)
        history = pareto.hypervolume_history(values, reference)
        expected = [pareto.hypervolume(values[: n + 1], reference) for n in range(len(values))]
        assert history == pytest.approx(np.array(expected), rel=1e-9, abs=1e-12)
        assert (np.diff(history) >= 0).all()
    assert pareto.hypervolume_history(np.empty((0, 2)), [1.0, 1.0]).shape == (0,)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_contribution_is_what_is_lost_without_the_row(objectives: int) -> None:
    rng = np.random.default_rng(24)
    for _ in range(250):
        values, reference = spoiled_values(rng, objectives), np.full(objectives, 0.5)
        whole = pareto.hypervolume(values, reference)
        expected = [whole - pareto.hypervolume(np.delete(values, i, axis=0), reference) for i in range(len(values))]
        found = pareto.contributions(values, reference)
        assert found == pytest.approx(np.array(expected), rel=1e-9, abs=1e-12)
        assert (found >= 0).all()
        assert not found[pareto.nondominated_rank(values) > 0].any(), "exactly 0, not nearly"
    assert pareto.contributions(np.empty((0, 3)), [1.0, 1.0, 1.0]).shape == (0,)
    assert pareto.contributions([[0.0, 0.0], [0.0, 0.0], [-1.0, 0.5]], [1.0, 1.0]).tolist() == [0.0, 0.0, 0.5]
