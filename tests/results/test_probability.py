"""The probability of being on the front: closed forms, brute force, and planted fronts whose truth is known."""

from itertools import pairwise

import numpy as np
import pytest
from planted_fronts import SHAPES, measured, planted
from scipy.stats import multivariate_normal

from ambient_sweep import pareto
from ambient_sweep.results.frontier.probability import DRAWS, _shrunk, front_probability

MONTE_CARLO = 4 * 0.5 / np.sqrt(DRAWS)  # four standard errors


@pytest.mark.parametrize("correlation", [0.0, 0.7, -0.9])
def test_two_candidates_have_the_closed_form(correlation: float) -> None:
    """The first is off the front if the second is below it in both: the differences are normal."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        points, errors = rng.normal(0, 1, (2, 2)), rng.uniform(0.2, 2, (2, 2))
        found = front_probability(points, errors, correlation=correlation)
        variance = (errors**2).sum(axis=0)
        shared = correlation * errors.prod(axis=1).sum()
        covariance = np.array([[variance[0], shared], [shared, variance[1]]])
        for one, other in ((0, 1), (1, 0)):
            beaten = multivariate_normal(points[other] - points[one], covariance).cdf(np.zeros(2))
            assert found[one] == pytest.approx(1 - beaten, abs=MONTE_CARLO)


def test_without_noise_it_is_the_front_and_ties_share_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        points = rng.integers(0, 5, (int(rng.integers(1, 12)), 2)).astype(float)
        expected = pareto.pareto_mask(points).astype(float)
        assert front_probability(points, np.zeros_like(points), draws=3).tolist() == expected.tolist()


def test_half_the_rows_certain_equals_peeling_draw_by_draw() -> None:
    """Against the plain definition: the share of draws in which pareto_mask holds, with other random numbers."""
    rng = np.random.default_rng(2)
    points = rng.normal(0, 1, (40, 2))
    errors = rng.uniform(0, 0.5, (40, 2)) * (rng.random((40, 1)) < 0.5)
    masks = [pareto.pareto_mask(points + errors * rng.normal(size=points.shape)) for _ in range(4000)]
    difference = front_probability(points, errors) - np.mean(masks, axis=0)
    assert np.abs(difference).max() < 1.5 * MONTE_CARLO


def test_the_order_of_rows_scale_and_hopeless_rows_change_nothing() -> None:
    rng = np.random.default_rng(3)
    points, errors = rng.normal(0, 1, (60, 2)), rng.uniform(0.1, 0.4, (60, 2))
    found = front_probability(points, errors, correlation=-0.5)
    shuffled = rng.permutation(60)
    assert np.array_equal(front_probability(points[shuffled], errors[shuffled], correlation=-0.5),
                          found[shuffled])  # fmt: skip
    scale = np.array([1000.0, 1 / 64])
    scaled = front_probability(points * scale, errors * scale, correlation=-0.5)
    assert scaled == pytest.approx(found, abs=2 / DRAWS)
    far = np.concatenate([points, points[:5] + 50])
    extended = front_probability(far, np.concatenate([errors, errors[:5]]), correlation=-0.5)
    assert np.array_equal(extended[:60], found)
    assert not extended[60:].any()


# -- planted fronts -------------------------------------------------------------------------------------------------


BANDS = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.01)


@pytest.mark.parametrize(("n", "fronts"), [(10, 30), (60, 8), (250, 2)])
def test_probabilities_of_planted_fronts_hold(n: int, fronts: int) -> None:
    """Over eight shapes, 2 to 5 runs and unequal noise: of candidates given p, about p are on the true front."""
    rng = np.random.default_rng(n)
    said, on = [], []
    for case in range(len(SHAPES) * fronts):
        truth, noise, known = planted(rng, SHAPES[case % len(SHAPES)], n)
        mean, error = measured(rng, truth, noise, known, more=1 + case // len(SHAPES) % 4)
        on.append(pareto.pareto_mask(truth))
        said.append(front_probability(mean, error, draws=400))
    true, p = np.concatenate(on), np.concatenate(said)
    for low, high in pairwise(BANDS):
        band = (p >= low) & (p < high)
        expected = true[band].mean()
        noise_of_it = 3 * np.sqrt(expected * (1 - expected) / band.sum())
        assert expected == pytest.approx(p[band].mean(), abs=0.12 + noise_of_it), (low, high, band.sum())


@pytest.mark.parametrize("correlation", [0.0, -0.8])
def test_true_values_fall_into_their_posteriors(correlation: float) -> None:
    """Planted: one normal. Whitened by its posterior the truth is standard normal, and means beat measurements."""
    rng = np.random.default_rng(1)
    n = 2400
    truth = rng.normal(size=(n, 2)) @ [[2.0, -1.5], [0.0, 1.2]] + [6.0, 1.0]
    errors = rng.uniform(0.3, 1.5, (n, 2))
    shape = np.array([[1, correlation], [correlation, 1]])
    points = truth + errors * rng.multivariate_normal([0, 0], shape, n)
    means, covariances = _shrunk(points, errors[:, :, None] * errors[:, None, :] * shape)
    roots = np.linalg.cholesky(covariances)
    whitened = np.linalg.solve(roots, (truth - means)[..., None])[..., 0]
    assert np.cov(whitened.T) == pytest.approx(np.eye(2), abs=0.12)
    assert whitened.mean(axis=0) == pytest.approx([0, 0], abs=0.06)
    assert ((means - truth) ** 2).sum() < 0.75 * ((points - truth) ** 2).sum()


def test_values_that_spread_less_than_their_noise_are_not_all_put_on_the_front() -> None:
    """All true values are near two antichains; without a least spread every candidate would be drawn onto one line."""
    rng = np.random.default_rng(2)
    t, behind = rng.uniform(0, 1, 200), 0.05 * rng.integers(0, 2, 200)
    truth = np.stack([t + behind, 1 - t + behind], axis=1)
    found = front_probability(truth + rng.normal(0, 0.1, (200, 2)), np.full((200, 2), 0.1), draws=500)
    assert found.mean() < 0.3
    assert found.sum() > 5
