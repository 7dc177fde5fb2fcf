"""Power-function averages: closed forms against quadrature, the update against the integral, the solve on a fine grid."""

import numpy as np
import pytest
from scipy.integrate import quad

from ambient_sweep.diffusion.ema import coefficients, decay, gamma_from_length


def length_from_gamma(gamma):
    """The spread of Beta(gamma + 1, 1)."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def profile(tau, gamma, t):
    return np.where(tau <= t, (gamma + 1) / t * (tau / t) ** gamma, 0.0)


@pytest.mark.parametrize("gamma", [0.0, 0.17, 1.0, 6.94, 16.97, 197.0])
def test_the_length_is_the_spread_of_the_profile(gamma):
    """Its standard deviation, by quadrature."""
    moments = [quad(lambda tau, k=k: tau**k * profile(tau, gamma, 1.0), 0, 1)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1)
    assert length_from_gamma(gamma) == pytest.approx((moments[2] - moments[1] ** 2) ** 0.5)


def test_lengths_and_exponents_belong_together():
    for length in [*np.geomspace(0.005, 0.28, 50), 0.001, 12**-0.5]:
        gamma = gamma_from_length(length)
        assert gamma >= 0
        assert length_from_gamma(gamma) == pytest.approx(length, rel=1e-12)
    assert gamma_from_length(0.05) == pytest.approx(16.97, abs=0.005)  # the pairs that the paper prints
    assert gamma_from_length(0.10) == pytest.approx(6.94, abs=0.005)
    assert gamma_from_length(12**-0.5) == pytest.approx(0, abs=1e-12)  # the plain mean


def exact(weights, ends, gamma):
    """(gamma + 1) / t^(gamma + 1) integral of tau^gamma theta(tau), for theta constant between the `ends` of steps."""
    starts, t = np.append(0, ends[:-1]), ends[-1]
    parts = [quad(profile, a, b, args=(gamma, t))[0] for a, b in zip(starts, ends, strict=True)]
    return np.array(parts) @ weights


def updated(weights, ends, gamma, rule=decay):
    average = np.full(weights.shape[1], 7.0)  # whatever it begins with, the first step replaces it
    for before, after, theta in zip([0, *ends[:-1]], ends, weights, strict=True):
        beta = rule(int(before), int(after), gamma)
        average = beta * average + (1 - beta) * theta
    return average


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.25])
def test_the_update_gives_the_integral_for_any_batch_sizes(length):
    """A random walk in double precision, steps of uneven size; a rule with another exponent fails."""
    generator = np.random.default_rng(0)
    ends = np.cumsum(generator.integers(1, 200, 60))
    weights = generator.normal(size=(60, 5)).cumsum(0)
    gamma = gamma_from_length(length)
    brute = exact(weights, ends, gamma)
    np.testing.assert_allclose(updated(weights, ends, gamma), brute, rtol=1e-7, atol=1e-9)
    wrong_exponent = updated(weights, ends, gamma, lambda before, after, g: decay(before, after, g - 1))
    counts_steps = updated(weights, ends, gamma, lambda before, after, g: (1 - 1 / (list(ends).index(after) + 1)) ** g)
    assert np.abs(wrong_exponent - brute).max() > 5e-4
    assert np.abs(counts_steps - brute).max() > 5e-4


def on_a_grid(length, t, lengths, positions, count=100_000):
    """The constrained least squares problem with profiles as vectors, solved in another way: weights, relative error."""
    tau = (np.arange(count) + 0.5) / count * t
    basis = np.stack([profile(tau, gamma_from_length(v), p) for v, p in zip(lengths, positions, strict=True)], 1) * t
    wanted = profile(tau, gamma_from_length(length), t) * t
    start = np.full(len(lengths), 1 / len(lengths))
    directions = np.linalg.svd(np.ones((1, len(lengths))))[2][1:].T  # those along which the sum does not change
    step = np.linalg.lstsq(basis @ directions, wanted - basis @ start, rcond=None)[0]
    weights = start + directions @ step
    return weights, np.linalg.norm(basis @ weights - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_the_coefficients_solve_the_least_squares_problem(length):
    positions = [1000, 1000, 2000, 2000, 3100, 3100, 4000, 4000]
    lengths = [0.05, 0.1] * 4
    mine, left = coefficients(length, 4000, lengths, positions)
    weights, residual = on_a_grid(length, 4000, lengths, positions)
    assert mine.sum() == pytest.approx(1, abs=1e-12)
    assert left == pytest.approx(residual, rel=1e-2)
    np.testing.assert_allclose(mine, weights, atol=1e-2 * np.abs(weights).max())


def test_an_average_that_is_stored_is_taken_as_it_is():
    mix, residual = coefficients(0.1, 128, [0.05, 0.1, 0.05, 0.1], [64, 64, 128, 128])
    assert residual == 0
    assert mix.tolist() == [0, 0, 0, 1]
    _, earlier = coefficients(0.1, 128, [0.05, 0.1], [64, 64])  # the same length at another time is not it
    assert earlier > 0.1
