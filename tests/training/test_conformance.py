"""Conformance: what is learnt from noisy data alone, against E[x_0 | x_t] in closed form, and the known mistakes.

Mixtures of Gaussians in 2 and 8 dimensions, observed at sigma_n = 0.3. Errors are relative to the posterior variance:
0 is the exact denoiser, 1 one that knows no more than x_t's own noise. Levels 0.05, 0.1, 0.2 lie below sigma_n, where
nothing is observed; 0.3 and 0.6 at and above it.
"""

import functools
import math

import pytest
import torch
from closed_forms import denoising_error, six_modes, two_modes

from ambient_sweep.config import build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.diffusion.loss import consistency_loss, mean_over_pixels, reverse_step
from ambient_sweep.diffusion.noise import karras
from ambient_sweep.training import objective
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import TrainState

SIGMA_N = 0.3
BELOW, ABOVE = (0.05, 0.1, 0.2), (0.3, 0.6)
MIXTURES = {"2d": two_modes(), "8d": six_modes()}
NAMES = ["2d", pytest.param("8d", marks=pytest.mark.slow)]
BATCH, STEPS = 128, 750
CONFIG = {
    "model": {"kind": "mlp", "width": 64, "blocks": 2},
    "noise": {"mean": -0.5, "std": 1.0},
    "training": {"images": BATCH * STEPS, "batch_size": BATCH},
    "optimizer": {"lr": 3e-3},
    "ema": {"halflife": 15_000, "rampup": 1.0},
    "consistency": {"start": 0.4, "weight": 1.0},
    "observed.sigma": SIGMA_N,
    "evaluation.lengths": [1.0],
}


def observations(mixture, sigma):
    generator = torch.Generator().manual_seed(0)
    x0 = mixture.draw(20_000, generator).float()
    y = x0 + sigma * torch.randn(x0.shape, generator=generator)
    return ObservedImages(y, torch.full((len(x0),), sigma))


@functools.cache
def learn(name, kind="ambient_consistency", sigma=SIGMA_N):
    """Errors by level of the averaged model trained with CONFIG and this objective and observed level."""
    mixture = MIXTURES[name]
    config = build_config(CONFIG, {"objective.kind": kind, "observed.sigma": sigma})
    state = TrainState.create(config, (1, 1, mixture.means.shape[1]))
    for _ in train(config, observations(mixture, config.observed.sigma), state):
        pass
    return {level: denoising_error(state.average, mixture, level) for level in BELOW + ABOVE}


def mean(errors, levels):
    """Geometric mean: levels of very different difficulty count alike."""
    return math.exp(sum(math.log(errors[level]) for level in levels) / len(levels))


@pytest.mark.parametrize("name", NAMES)
def test_ambient_and_consistency_learn_the_posterior_mean_above_and_below_the_observed_level(name):
    """From noisy data alone; beside it the naive way from the same data, and training on the clean images."""
    right, ambient, naive = learn(name), learn(name, "ambient"), learn(name, "denoising")
    clean = learn(name, "denoising", 0.0)
    assert mean(right, BELOW) < 0.6 * mean(ambient, BELOW)
    assert mean(right, BELOW) < 0.6 * mean(naive, BELOW)
    for errors in (right, ambient):
        assert mean(errors, ABOVE) < 0.5 * mean(naive, ABOVE)  # the naive way learns E[y | x_t]
    assert mean(right, ABOVE) < 1.5 * mean(ambient, ABOVE)  # the term below does no harm above
    assert mean(clean, BELOW) < mean(right, BELOW) < {"2d": 0.04, "8d": 0.13}[name]


# -- the known mistakes, each of which the right way must be told from ---------------------------------------------


def two_draws(denoiser, x, levels, noise):
    """The target with gradient, and the errors' first terms: two independent chains of two steps without."""
    target = denoiser(x, levels[:, 0])
    ends = []
    with torch.no_grad():
        for first, second in ((0, 1), (2, 3)):
            middle = reverse_step(x, target, levels[:, 0], levels[:, 1], noise[:, first])
            estimate = denoiser(middle, levels[:, 1])
            ends.append(reverse_step(middle, estimate, levels[:, 1], levels[:, 2], noise[:, second]))
    return target, [denoiser(end, levels[:, -1]) for end in ends]


def squared_mean_loss(denoiser, x, levels, noise, weight, *, draws):
    """The mistake: the mean of two draws, squared; it adds half of their variance."""
    target, ends = two_draws(denoiser, x, levels, noise)
    return weight * mean_over_pixels((torch.stack(ends).mean(0) - target.detach()) ** 2)


def loss_without_stop(denoiser, x, levels, noise, weight, *, draws):
    """The mistake: the gradient reaches the denoiser at the observed level too."""
    target, (left, right) = two_draws(denoiser, x, levels, noise)
    return weight * mean_over_pixels((left - target) * (right - target))


@pytest.mark.parametrize("mistake", [squared_mean_loss, pytest.param(loss_without_stop, marks=pytest.mark.slow)])
def test_mistakes_in_the_consistency_loss_show_below_the_observed_level(mistake, monkeypatch):
    right = learn("2d")
    monkeypatch.setattr(objective, "consistency_loss", mistake)
    assert mean(learn.__wrapped__("2d"), BELOW) > 1.5 * mean(right, BELOW)


def defect(mixture, sigma_n, steps, count=2000, draws=32):
    """|| E[D(x') | x] - D(x) ||^2 of the exact denoiser over the posterior variance, and its standard error.

    Chains of the default recipe, of so many steps. Their draws are independent, so this estimate is unbiased.
    """
    generator = torch.Generator().manual_seed(5)
    x0 = mixture.draw(count, generator)
    x = x0 + sigma_n * torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    first = torch.full((count,), sigma_n, dtype=x0.dtype)
    variance = ((x0 - mixture.posterior_mean(x, first)) ** 2).mean()
    config = build_config({"consistency.chain_steps": steps})
    u = torch.rand(count, generator=generator, dtype=x0.dtype).numpy()
    levels = karras(first, first * torch.from_numpy(config.consistency.lowest**u), steps)
    noise = torch.randn((count, draws * steps, *x.shape[1:]), generator=generator, dtype=x0.dtype)
    ones = torch.ones(count, dtype=x0.dtype)
    values = consistency_loss(mixture.posterior_mean, x, levels, noise, ones, draws=draws) / variance
    return float(values.mean()), float(values.std() / count**0.5)


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_denoiser_is_a_fixed_point_up_to_a_bound_that_long_chains_lower(name):
    """docs/consistency.md: a reverse step puts D(x) for x_0, so short chains are not exact draws."""
    found = {steps: defect(MIXTURES[name], SIGMA_N, steps) for steps in (1, 2, 5, 20)}
    assert max(value for value, _ in found.values()) < 0.006
    assert found[5][0] > 4 * found[5][1]  # the bias is there
    assert abs(found[20][0]) < found[5][0] / 2
    above = {steps: defect(MIXTURES[name], 1.0, steps)[0] for steps in (2, 5, 20)}
    assert above[2] > 2 * above[5] > 4 * above[20]
