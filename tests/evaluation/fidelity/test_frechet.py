import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance
from numpy.typing import NDArray

from ambient_sweep.evaluation.fidelity.frechet import frechet, statistics
from ambient_sweep.evaluation.measure import Z95, Measure

Array = NDArray[np.float64]


def sample(seed: int, n: int, size: int, scale: float = 1.0, shift: float = 0.0, decay: float = 1.0) -> Array:
    spectrum = np.arange(1, size + 1) ** (-decay / 2)
    return spectrum * (shift + scale * np.random.default_rng(seed).standard_normal((n, size)))


def mixed(features: Array, seed: int) -> Array:
    """The same features in other, correlated coordinates."""
    size = features.shape[1]
    return features @ (np.eye(size) + 0.5 * np.random.default_rng(seed).standard_normal((size, size)) / np.sqrt(size))


def distance(generated: Array, real: Array) -> Measure:
    return frechet(torch.from_numpy(generated), statistics([torch.from_numpy(real)]))


@pytest.mark.parametrize(("n", "m"), [(30, 400), (400, 30), (30, 40)])
def test_deficient_rank_is_the_nuclear_norm_in_exact_subspaces(n: int, m: int) -> None:
    size = 60
    generated, real = mixed(sample(0, n, size, 1.3, 0.2), 7), mixed(sample(1, m, size), 8)
    g, r = (generated - generated.mean(0)) / np.sqrt(n - 1), (real - real.mean(0)) / np.sqrt(m - 1)
    shift = generated.mean(0) - real.mean(0)
    cross = np.linalg.svd(g @ r.T, compute_uv=False).sum()
    expected = shift @ shift + (g**2).sum() + (r**2).sum() - 2 * cross
    assert distance(generated, real).value == pytest.approx(expected, rel=1e-8)


def test_closed_form_for_diagonal_gaussians() -> None:
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T * np.sqrt(15 / 16)  # covariance exactly 1
    a, b = np.array([1.0, 2.0, 0.5, 0.0]), np.array([3.0, 2.0, 0.1, 1.0])
    shift = np.array([0.1, 0.0, -2.0, 1.0])
    assert distance(corners * a + shift, corners * b).value == pytest.approx(shift @ shift + ((a - b) ** 2).sum())


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated")
@pytest.mark.parametrize(("n", "m", "size"), [(300, 400, 20), (25, 400, 20), (200, 150, 100)])
def test_full_rank_is_clean_fids_with_a_general_square_root(n: int, m: int, size: int) -> None:
    generated, real = mixed(sample(0, n, size, 1.3, 0.2), 7), mixed(sample(1, m, size), 8)
    theirs = frechet_distance(
        generated.mean(0), np.cov(generated, rowvar=False), real.mean(0), np.cov(real, rowvar=False)
    )
    assert distance(generated, real).value == pytest.approx(float(theirs), rel=1e-9)


# -- the interval ---------------------------------------------------------------------------------------------------


def standard_error(measure: Measure) -> float:
    return (measure.high - measure.value) / Z95


@pytest.mark.parametrize(("n", "m", "size"), [(50, 400, 12), (30, 400, 60), (50, 20, 40)])
def test_standard_error_is_that_of_the_numeric_derivative(n: int, m: int, size: int) -> None:
    """Infinitesimal jackknife by finite differences: the distance of a reweighted sample, one weight at a time."""
    generated, real = mixed(sample(0, n, size, 1.3, 0.2), 7), sample(1, m, size)
    r = (real - real.mean(0)) / np.sqrt(m - 1)

    def weighted(weights: Array) -> float:
        mean = weights @ generated
        g = np.sqrt(weights * n / (n - 1))[:, None] * (generated - mean)
        cross = np.linalg.svd(g @ r.T, compute_uv=False).sum()
        return float(((mean - real.mean(0)) ** 2).sum() + (g**2).sum() - 2 * cross)

    step = 1e-4
    uniform, ones = np.full(n, 1 / n), np.eye(n)
    influence = [
        (weighted((1 - step) * uniform + step * one) - weighted((1 + step) * uniform - step * one)) / (2 * step)
        for one in ones
    ]
    expected = np.std(influence, ddof=1) / np.sqrt(n)
    assert standard_error(distance(generated, real)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("n", "size", "scale", "shift", "low", "high"),
    [
        (200, 8, 1.3, 0.3, 0.85, 1.2),
        (200, 48, 1.5, 0.5, 0.85, 1.25),
        (60, 120, 1.5, 0.5, 0.8, 1.3),  # fewer samples than features
        (200, 48, 1.0, 0.0, 1.0, 1.7),  # at the floor the first order is too wide, never too narrow
    ],
)
def test_standard_error_is_the_spread_over_repeated_draws(
    n: int, size: int, scale: float, shift: float, low: float, high: float
) -> None:
    real = statistics([torch.from_numpy(sample(0, 500, size))])
    measures = [frechet(torch.from_numpy(sample(seed, n, size, scale, shift)), real) for seed in range(1, 121)]
    spread = np.std([measure.value for measure in measures], ddof=1)
    assert low < np.mean([standard_error(measure) for measure in measures]) / spread < high


# -- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[500], [1] * 500, [1, 2, 497], [100] * 5])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_statistics_of_blocks_are_numpys_of_all(sizes: list[int], offset: float) -> None:
    x = offset + mixed(sample(0, 500, 12), 1)
    found = statistics(torch.from_numpy(x).split(sizes))
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.root.T @ found.root, np.cov(x, rowvar=False), rtol=1e-10, atol=1e-12)
    assert found.n == 500


@pytest.mark.parametrize(("n", "size"), [(15, 20), (21, 20), (2, 20), (400, 1)])
def test_roots_have_the_rank_of_the_features(n: int, size: int) -> None:
    x = sample(0, n, size)
    root = statistics([torch.from_numpy(x)]).root
    assert len(root) <= min(n, size)
    np.testing.assert_allclose(root.T @ root, np.atleast_2d(np.cov(x, rowvar=False)), rtol=1e-9, atol=1e-10)


def test_constant_and_repeated_features_cost_rank_and_change_nothing() -> None:
    x = sample(0, 200, 6)
    padded = np.concatenate([x, np.full((200, 3), 7.0), x[:, :1]], axis=1)
    root = statistics([torch.from_numpy(padded)]).root
    assert len(root) == 6
    np.testing.assert_allclose(root.T @ root, np.cov(padded, rowvar=False), rtol=1e-9, atol=1e-10)
    assert statistics([torch.full((5, 3), 7.0)]).root.square().sum() == 0
