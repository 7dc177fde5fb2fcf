"""Scalings against the losses as published, on float64 tensors, with networks that answer at random."""

import numpy as np
import pytest
import torch

from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.diffusion.loss import ambient_loss
from ambient_sweep.diffusion.noise import expand, table_levels
from ambient_sweep.diffusion.scalings import Edm, Flow, Noise, Velocity, timestep

N = 64
ALPHA_BAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
TABLE = tuple(np.sqrt(1 / ALPHA_BAR - 1).tolist())  # of SDXL


def normal(seed):
    return torch.randn(N, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Fixed(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, c_noise):
        self.x, self.c_noise = x, c_noise
        return self.answer


def loss(scaling, sigma_n):
    """The ambient loss under a scaling, with what the network answered, and was given; x0, n, sigma."""
    x0, eps, n, answer = map(normal, range(4))
    sigma = torch.linspace(0.6, 14, N, dtype=torch.float64)
    level = torch.full_like(sigma, sigma_n)
    network = Fixed(answer)
    y = x0 + expand(level) * eps
    found = ambient_loss(Denoiser(network, scaling), y, level, sigma, n, scaling.weight(sigma))
    return found, network, x0, n, sigma


def square(x):
    return (x**2).flatten(1).mean(1)


@pytest.mark.parametrize("sigma_n", [0.0, 0.3, 0.55])
def test_the_ambient_loss_of_a_noise_prediction_is_the_one_of_sdxl(sigma_n):
    found, network, _, z, sigma = loss(Noise(TABLE), sigma_n)
    r = expand((sigma_n / sigma) ** 2)
    torch.testing.assert_close(found, square(z - (1 - r).sqrt() * network.answer), rtol=1e-12, atol=1e-12)


def test_a_velocity_of_a_variance_preserving_process_is_trained_as_published():
    found, network, x0, n, sigma = loss(Velocity(TABLE), 0.0)
    alpha = expand(1 / (1 + sigma**2).sqrt())
    s = expand(sigma) * alpha
    torch.testing.assert_close(found, square(alpha * n - s * x0 - network.answer), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.x, alpha * x0 + s * n)


def test_a_flow_is_trained_as_published():
    found, network, x0, n, sigma = loss(Flow(), 0.0)
    t = sigma / (1 + sigma)
    torch.testing.assert_close(found, square(n - x0 - network.answer), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.x, expand(1 - t) * x0 + expand(t) * n)
    torch.testing.assert_close(network.c_noise, 1000 * t)


def test_velocity_is_edm_with_unit_data_and_the_sign_turned():
    sigma = torch.linspace(0, 20, 50, dtype=torch.float64)
    edm, v = (each.coefficients(sigma) for each in (Edm(1.0), Velocity(TABLE)))
    for mine, theirs in zip(edm[:3], (v.c_skip, -v.c_out, v.scale), strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(Edm(1.0).weight(sigma[1:]), Velocity(TABLE).weight(sigma[1:]))


@pytest.mark.parametrize("scaling", [Edm(0.5), Noise(TABLE), Velocity(TABLE), Flow()], ids=lambda s: type(s).__name__)
def test_without_noise_the_image_is_its_own_estimate(scaling):
    x = normal(0).float()
    assert torch.equal(Denoiser(Fixed(torch.ones_like(x)), scaling)(x, torch.zeros(N)), x)


def test_timesteps_are_those_of_the_table_and_lie_between_its_levels():
    sigma = torch.tensor(TABLE, dtype=torch.float64)
    places = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(timestep(sigma, TABLE), places)
    between = (sigma[:-1] * sigma[1:]).sqrt()
    torch.testing.assert_close(timestep(between, TABLE), places[:-1] + 0.5)
    ends = torch.tensor([0.0, 1e-3, 100.0], dtype=torch.float64)
    assert timestep(ends, TABLE).tolist() == [0, 0, 999]
    torch.testing.assert_close(timestep(sigma.float(), TABLE), places.float(), rtol=0, atol=2e-3)


def test_levels_of_a_table_are_uniform_over_those_above():
    above = np.where(np.arange(40_000) % 2 == 0, 1.618, 0.0)
    u = (np.arange(40_000) // 2 + 0.5) / 20_000
    drawn = table_levels(u, TABLE, above)
    assert (drawn > above).all()
    for begin, part in ((np.searchsorted(TABLE, 1.618), drawn[::2]), (0, drawn[1::2])):
        levels, counts = np.unique(part, return_counts=True)
        assert levels.tolist() == list(TABLE[begin:])
        assert np.ptp(counts) <= 1
    assert table_levels(0.3, TABLE, TABLE[-1]) == TABLE[-1]
