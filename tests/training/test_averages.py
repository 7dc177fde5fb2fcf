"""The averages that training carries along: against the weighted sum of all past weights, in place, to the bit."""

import pytest
import torch
from torch import nn

from ambient_sweep.config import EmaConfig
from ambient_sweep.diffusion.ema import gamma_from_length
from ambient_sweep.training.averages import Averages

POWER = EmaConfig(kind="power", tracked=(0.05, 0.1), length=0.1)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 3))


def walk(model, steps, generator, size=0.05):
    """A random walk of the weights: all of them after each step, as lists in the order of parameters()."""
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p += size * torch.randn(p.shape, generator=generator)
        yield [p.detach().clone() for p in model.parameters()]


def test_power_averages_are_the_weighted_sum_of_all_past_weights(generator):
    model = network()
    averages = Averages.create(POWER, model)
    ends = torch.randint(1, 100, (300,), generator=generator).cumsum(0).tolist()
    history, before = [], 0
    for images, weights in zip(ends, walk(model, 300, generator), strict=True):
        averages.update(list(model.parameters()), before, images)
        history.append(weights)
        before = images
    borders = torch.tensor([0, *ends], dtype=torch.float64) / ends[-1]
    for length in POWER.tracked:
        shares = borders.pow(gamma_from_length(length) + 1).diff()
        for i, mine in enumerate(averages.models[str(length)]):
            brute = torch.einsum("k,k...->...", shares, torch.stack([w[i].double() for w in history]))
            torch.testing.assert_close(mine.double(), brute, rtol=1e-5, atol=1e-6)
            assert float((mine - history[-1][i]).abs().max()) > 0.02  # the weights themselves are elsewhere


@pytest.mark.parametrize("config", [EmaConfig(), EmaConfig(halflife=500, rampup=1.0), EmaConfig(halflife=0)])
def test_the_half_life_average_follows_its_recursion_in_place(generator, config):
    model = network()
    averages = Averages.create(config, model)
    places = {key: tensor.data_ptr() for key, tensor in averages.tensors().items()}
    mine = [p.detach().clone() for p in model.parameters()]
    for step, weights in enumerate(walk(model, 50, generator), 1):
        averages.update(list(model.parameters()), 64 * (step - 1), 64 * step)
        length = min(float(config.halflife), 64 * step * config.rampup)
        mine = [
            a.lerp(w, 1 - (0.5 ** (64 / length) if length > 0 else 0.0)) for a, w in zip(mine, weights, strict=True)
        ]
    assert all(torch.equal(a, b) for a, b in zip(averages.main().values(), mine, strict=True))
    assert {key: tensor.data_ptr() for key, tensor in averages.tensors().items()} == places
