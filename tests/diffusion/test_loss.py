"""The losses against closed forms, and the well-known mistakes that these tests must catch."""

import pytest
import torch
from closed_forms import Mixture, gaussian, standard_errors, two_modes

from ambient_sweep.diffusion.loss import ambient_loss, consistency_loss, reverse_step

N = 200_000


def normal(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def residual_moments(mixture: Mixture, denoiser, sigma_n: float, sigma: float, generator) -> float:
    """Largest z-score of the ambient residual against functions of x_t, which it must be uncorrelated with."""
    x0 = mixture.draw(N, generator)
    y = x0 + sigma_n * normal(x0.shape, generator)
    xt = y + (sigma**2 - sigma_n**2) ** 0.5 * normal(x0.shape, generator)
    r = sigma_n**2 / sigma**2
    residual = (1 - r) * denoiser(xt, torch.full((N,), sigma, dtype=torch.float64)) + r * xt - y
    tests = (torch.ones_like(xt), xt, xt**2, torch.sin(3 * xt), (xt > 0).double())
    return max(standard_errors((residual * f).flatten(1).sum(1)) for f in tests)


@pytest.mark.parametrize("mixture", [gaussian(), two_modes()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("sigma_n", "sigma"), [(0.3, 0.5), (0.3, 2.0), (0.8, 1.0)])
def test_the_posterior_mean_satisfies_the_ambient_identity(mixture, sigma_n, sigma, generator):
    assert residual_moments(mixture, mixture.posterior_mean, sigma_n, sigma, generator) < 4


def test_a_denoiser_that_shrinks_does_not(generator):
    mixture = two_modes()
    assert residual_moments(mixture, lambda x, s: 0.9 * mixture.posterior_mean(x, s), 0.3, 0.5, generator) > 6


def test_the_posterior_mean_minimises_the_ambient_loss(generator):
    """Against perturbed denoisers, with the same draws; no clean image enters the loss."""
    mixture = two_modes()
    x0 = mixture.draw(N, generator)
    sigma_n = torch.full((N,), 0.3, dtype=torch.float64)
    sigma = 0.3 + 1.5 * torch.rand(N, generator=generator, dtype=torch.float64)
    y = x0 + 0.3 * normal(x0.shape, generator)
    noise, weight = normal(x0.shape, generator), torch.ones(N, dtype=torch.float64)

    def loss(denoiser):
        return ambient_loss(denoiser, y, sigma_n, sigma, noise, weight)

    best = loss(mixture.posterior_mean)
    for change in (lambda d, x: 1.05 * d, lambda d, x: 0.95 * d, lambda d, x: d + 0.03, lambda d, x: d + 0.05 * x):
        worse = loss(lambda x, s, change=change: change(mixture.posterior_mean(x, s), x))
        assert worse.mean() > best.mean()
        assert standard_errors(worse - best) > 3


def test_without_observation_noise_it_is_the_denoising_loss(generator):
    """w || D(x_0 + sigma n, sigma) - x_0 ||^2, EDM's equation 2."""
    mixture = two_modes()
    x0, noise = mixture.draw(50, generator), normal((50, 1, 1, 2), generator)
    sigma, weight = torch.rand(2, 50, generator=generator, dtype=torch.float64) + 0.1
    denoised = mixture.posterior_mean(x0 + sigma[:, None, None, None] * noise, sigma)
    ambient = ambient_loss(mixture.posterior_mean, x0, torch.zeros_like(sigma), sigma, noise, weight)
    torch.testing.assert_close(ambient, weight * ((denoised - x0) ** 2).mean((1, 2, 3)))


def test_at_the_observed_level_the_loss_is_exactly_zero_and_stays_finite_just_above():
    y, noise = torch.ones(2, 1, 1, 2), torch.ones(2, 1, 1, 2)
    sigma_n = torch.full((2,), 0.3)
    sigma = torch.tensor([0.3, 0.3 * (1 + 1e-7)])
    loss = ambient_loss(lambda x, s: 5 * x, y, sigma_n, sigma, noise, torch.ones(2))
    assert loss[0] == 0
    assert torch.isfinite(loss).all()


def test_reverse_steps_keep_the_marginal_law(generator):
    """With the true x_0 in place of the estimate, x_lower is x_0 plus noise of exactly that level."""
    mixture = gaussian()
    x0 = mixture.draw(N, generator)
    sigma, lower = torch.full((N,), 0.8, dtype=torch.float64), torch.full((N,), 0.3, dtype=torch.float64)
    x = x0 + 0.8 * normal(x0.shape, generator)
    noise = (reverse_step(x, x0, sigma, lower, normal(x0.shape, generator)) - x0).flatten()
    assert noise.var() == pytest.approx(0.09, rel=0.01)
    assert standard_errors(noise) < 4
    assert standard_errors(noise * x0.flatten()) < 4


def linear(a: float):
    """A wrong denoiser whose consistency defect has a closed form: D(x, sigma) = a x above 0.5, (a + sigma) x below."""
    return lambda x, s: torch.where(s[:, None, None, None] > 0.5, a * x, (a + s[:, None, None, None]) * x)


def defect(a: float, sigma: float, lower: float, x: torch.Tensor) -> torch.Tensor:
    """|| E[D(x', lower) | x] - D(x, sigma) ||^2 of `linear(a)` after one step, per sample."""
    q = (lower / sigma) ** 2
    mean = (a + lower) * (q + (1 - q) * a) * x
    return ((mean - a * x) ** 2).flatten(1).mean(1)


def estimate(denoiser, x, levels, generator, draws=2, loss=consistency_loss):
    noise = normal((len(x), draws * (len(levels) - 1), *x.shape[1:]), generator)
    rows = torch.tensor(levels, dtype=torch.float64).expand(len(x), -1)
    return loss(denoiser, x, rows, noise, torch.ones(len(x), dtype=torch.float64), draws=draws)


def squared_mean_loss(denoiser, x, levels, noise, weight, *, draws):
    """The mistake: the mean of two draws, squared."""
    target = denoiser(x, levels[:, 0])
    ends = [denoiser(reverse_step(x, target, levels[:, 0], levels[:, 1], noise[:, i]), levels[:, 1]) for i in (0, 1)]
    return weight * ((torch.stack(ends).mean(0) - target) ** 2).flatten(1).mean(1)


def test_any_number_of_draws_gives_an_unbiased_estimate_and_squaring_their_mean_does_not(generator):
    """Of a defect known in closed form, and with less spread for more draws."""
    x = 0.7 * normal((N // 2, 1, 1, 2), generator)
    exact = defect(0.4, 0.6, 0.4, x)
    assert exact.mean() > 0.001
    values = {draws: estimate(linear(0.4), x, [0.6, 0.4], generator, draws) for draws in (2, 3, 6)}
    assert max(standard_errors(estimates - exact) for estimates in values.values()) < 4
    assert values[6].std() < 0.9 * values[3].std() < 0.81 * values[2].std()
    squared = estimate(linear(0.4), x, [0.6, 0.4], generator, loss=squared_mean_loss)
    assert standard_errors(squared - exact) > 20


def test_consistency_loss_of_the_true_denoiser_is_zero_on_average(generator):
    """In several small steps: one step is exact only for small gaps."""
    mixture = gaussian()
    x = mixture.draw(N, generator) + 0.3 * normal((N, 1, 1, 2), generator)
    values = estimate(mixture.posterior_mean, x, torch.linspace(0.3, 0.2, 4).tolist(), generator)
    assert abs(values.mean()) < 1e-4  # the variance of a single draw is 100 times that
    assert (values < 0).double().mean() > 0.3


def test_the_gradient_reaches_the_last_level_only(generator):
    """Neither the target nor the chain takes part in it."""
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True)
    calls = iter(range(3))  # the target, one step of both chains, the last level
    x = normal((16, 1, 1, 2), generator)
    estimate(lambda x, sigma: scale[next(calls)] * 0.8 * x, x, [0.6, 0.4, 0.3], generator).sum().backward()
    assert (scale.grad != 0).tolist() == [False, False, True]
