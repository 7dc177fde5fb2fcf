import pytest
import torch
from closed_forms import gaussian, two_modes

from ambient_sweep.diffusion.sampling import heun, sample, sampling_levels


def levels(steps, stop=0.0):
    return sampling_levels(20.0, 0.002, steps, 7.0, stop)


def exact_flow(x, start, end, std=0.5):
    """The probability flow of a centred Gaussian scales x by the ratio of the marginal standard deviations."""
    return x * ((std**2 + end**2) / (std**2 + start**2)) ** 0.5


def test_heun_follows_the_exact_flow_of_a_gaussian(generator):
    x = 20 * torch.randn(100, 1, 1, 2, generator=generator, dtype=torch.float64)
    result = heun(gaussian().posterior_mean, x, levels(128))
    torch.testing.assert_close(result, exact_flow(x, 20, 0), rtol=2e-3, atol=1e-6)


def test_heun_is_of_second_order(generator):
    x = 20 * torch.randn(100, 1, 1, 2, generator=generator, dtype=torch.float64)
    errors = []
    for steps in (16, 32, 64):
        part = levels(steps)[:-1]  # without the Euler step to 0
        errors.append((heun(gaussian().posterior_mean, x, part) - exact_flow(x, 20, 0.002)).abs().max())
    assert errors[0] / errors[1] > 3.3
    assert errors[1] / errors[2] > 3.3


def test_stopped_samples_are_the_posterior_mean_of_the_same_trajectory(generator):
    mixture, stop = two_modes(), 0.3
    noise = torch.randn(20, 1, 1, 2, generator=generator, dtype=torch.float64)
    grid = levels(18, stop)
    zero, stopped = sample(mixture.posterior_mean, noise, grid, stop)
    at_stop = heun(mixture.posterior_mean, noise * grid[0], grid[grid >= stop])
    torch.testing.assert_close(stopped, mixture.posterior_mean(at_stop, torch.full((20,), stop, dtype=torch.float64)))
    torch.testing.assert_close(zero, heun(mixture.posterior_mean, noise * grid[0], grid))


@pytest.mark.parametrize("stop", [0.0, 0.3, 20.0, 0.002, 0.0005])
def test_levels_descend_to_zero_through_the_stop(stop):
    grid = levels(18, stop)
    assert (grid.diff() < 0).all()
    assert grid[0] == 20
    assert grid[-1] == 0
    assert (grid == stop).any()
    assert len(grid) in (19, 20)
