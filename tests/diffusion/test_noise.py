import numpy as np
import pytest
import torch
from scipy import stats

from ambient_sweep.diffusion.noise import karras, truncated_lognormal

MEAN, STD = -0.5, 1.0


def test_agrees_with_scipys_truncated_normal():
    u = np.linspace(0.001, 0.999, 999)
    for above, below in ((0.0, np.inf), (0.3, np.inf), (0.3, 1.0), (5.0, np.inf), (0.0, 0.2)):
        with np.errstate(divide="ignore"):
            a, b = (np.log([above, below]) - MEAN) / STD
        expected = np.exp(stats.truncnorm.ppf(u, a, b, loc=MEAN, scale=STD))
        np.testing.assert_allclose(truncated_lognormal(u, MEAN, STD, above, below), expected, rtol=1e-9)


def test_far_tail_keeps_its_precision():
    sigma = truncated_lognormal(np.linspace(0.01, 0.99, 99), MEAN, STD, above=1e6)
    assert (sigma > 1e6).all()
    assert (np.diff(sigma) > 0).all()


def clamped_lognormal(u, mean, std, above):
    """The mistake: clamping instead of truncating."""
    return np.maximum(np.exp(mean + std * stats.norm.ppf(u)), above)


@pytest.mark.parametrize(("draw", "share_at_bound"), [(truncated_lognormal, 0.0), (clamped_lognormal, 0.3)])
def test_no_mass_lies_on_the_bound(draw, share_at_bound):
    """Where the ambient loss is zero. EDM's own log-normal puts 37 % of a clamped batch at 0.2."""
    u = np.random.default_rng(0).uniform(size=10_000)
    share = float((draw(u, -1.2, 1.2, above=0.2) <= 0.2 * (1 + 1e-9)).mean())
    assert share >= share_at_bound if share_at_bound else share == 0


def test_karras_levels_are_edms():
    levels = karras(torch.tensor(80.0, dtype=torch.float64), torch.tensor(0.002, dtype=torch.float64), 17)
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels.numpy(), expected, rtol=1e-12)
