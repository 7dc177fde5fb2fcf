import numpy as np
import torch
from scipy import stats

from ambient_sweep.diffusion.noise import karras, truncated_lognormal

MEAN, STD = -0.5, 1.0


def test_agrees_with_scipys_truncated_normal():
    u = np.linspace(0.001, 0.999, 999)
    for above in (0.0, 0.3, 5.0):
        with np.errstate(divide="ignore"):
            low = (np.log(above) - MEAN) / STD
        expected = np.exp(stats.truncnorm.ppf(u, low, np.inf, loc=MEAN, scale=STD))
        np.testing.assert_allclose(truncated_lognormal(u, MEAN, STD, above), expected, rtol=1e-9)


def test_far_tail_keeps_its_precision():
    sigma = truncated_lognormal(np.linspace(0.01, 0.99, 99), MEAN, STD, above=1e6)
    assert (sigma > 1e6).all()
    assert (np.diff(sigma) > 0).all()


def test_karras_levels_are_edms():
    levels = karras(torch.tensor(80.0, dtype=torch.float64), torch.tensor(0.002, dtype=torch.float64), 17)
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels.numpy(), expected, rtol=1e-12)
