"""The probability of being on the front: closed forms, brute force, and planted fronts whose truth is known."""

from itertools import pairwise

import numpy as np
import pytest
from planted_fronts import SHAPES, measured, planted
from scipy.stats import norm

from ambient_sweep import pareto
from ambient_sweep.results.frontier import standings
from ambient_sweep.results.frontier.standings import DRAWS, front_probability

MONTE_CARLO = 4 * 0.5 / np.sqrt(DRAWS)  # four standard errors


def test_two_candidates_have_the_closed_form() -> None:
    """The first is off the front if the second is below it in both: the differences are normal and independent."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        points, errors = rng.normal(0, 1, (2, 2)), rng.uniform(0.2, 2, (2, 2))
        found = front_probability(points, errors)
        scale = np.sqrt((errors**2).sum(axis=0))
        for one, other in ((0, 1), (1, 0)):
            beaten = norm.cdf((points[one] - points[other]) / scale).prod()
            assert found[one] == pytest.approx(1 - beaten, abs=MONTE_CARLO)


def test_without_noise_it_is_the_front_and_ties_share_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        points = rng.integers(0, 5, (int(rng.integers(1, 12)), 2)).astype(float)
        expected = pareto.pareto_mask(points).astype(float)
        assert front_probability(points, np.zeros_like(points)).tolist() == expected.tolist()


def test_half_the_rows_certain_equals_peeling_draw_by_draw() -> None:
    """Against the plain definition: the share of draws in which pareto_mask holds, with other random numbers."""
    rng = np.random.default_rng(2)
    points = rng.normal(0, 1, (40, 2))
    errors = rng.uniform(0, 0.5, (40, 2)) * (rng.random((40, 1)) < 0.5)
    masks = [pareto.pareto_mask(points + errors * rng.normal(size=points.shape)) for _ in range(4000)]
    difference = front_probability(points, errors) - np.mean(masks, axis=0)
    assert np.abs(difference).max() < 1.5 * MONTE_CARLO


# -- planted fronts -------------------------------------------------------------------------------------------------


BANDS = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.01)


@pytest.mark.parametrize(("n", "fronts"), [(10, 30), (60, 8), (250, 2)])
def test_probabilities_of_planted_fronts_hold(n: int, fronts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over eight shapes, 2 to 5 runs and unequal noise: of candidates given p, about p are on the true front."""
    monkeypatch.setattr(standings, "DRAWS", 200)
    rng = np.random.default_rng(n)
    said, on = [], []
    for case in range(len(SHAPES) * fronts):
        truth, noise, known = planted(rng, SHAPES[case % len(SHAPES)], n)
        mean, error = measured(rng, truth, noise, known, more=1 + case // len(SHAPES) % 4)
        on.append(pareto.pareto_mask(truth))
        said.append(front_probability(mean, error))
    true, p = np.concatenate(on), np.concatenate(said)
    for low, high in pairwise(BANDS):
        band = (p >= low) & (p < high)
        expected = true[band].mean()
        noise_of_it = 3 * np.sqrt(expected * (1 - expected) / band.sum())
        assert expected == pytest.approx(p[band].mean(), abs=0.12 + noise_of_it), (low, high, band.sum())
