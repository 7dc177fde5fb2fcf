import pytest
import torch

from ambient_sweep.config import ModelConfig
from ambient_sweep.models import build_model, count_parameters

SMALL = {
    "mlp": ModelConfig(kind="mlp", width=32, blocks=2),
    "unet": ModelConfig(kind="unet", width=16, blocks=1, levels=2),
}


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
def test_shapes_and_preconditioning(kind, shape):
    denoiser = build_model(SMALL[kind], shape, 0)
    x, sigma = torch.randn(4, *shape), torch.tensor([0.0, 0.01, 1.0, 80.0])
    y = denoiser(x, sigma)
    assert y.shape == x.shape
    torch.testing.assert_close(y[0], x[0])  # D(x, 0) = x
    # the outlet starts at 0, so D = c_skip x exactly
    skip = 0.25 / (sigma**2 + 0.25)
    torch.testing.assert_close(y, skip[:, None, None, None] * x)


@pytest.mark.parametrize("kind", SMALL)
def test_every_weight_is_trained_and_the_noise_level_matters(kind):
    denoiser = build_model(SMALL[kind], (1, 8, 8), 0)
    optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.1)
    x = torch.randn(8, 1, 8, 8)
    for _ in range(3):  # outlets that start at 0 let gradients through from the second step on
        optimizer.zero_grad()
        ((denoiser(x, torch.rand(8) + 0.1) - 1) ** 2).mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.parameters())
    network = denoiser.network
    assert not torch.equal(network(x, torch.full((8,), -1.0)), network(x, torch.full((8,), 0.5)))


@pytest.mark.parametrize("kind", SMALL)
def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator(kind):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_model(SMALL[kind], (1, 8, 8), seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
    assert count_parameters(first) == sum(p.numel() for p in first.parameters())


@pytest.mark.parametrize(("width", "levels", "size"), [(8, 1, 5), (24, 3, 12), (40, 2, 8), (64, 4, 32)])
def test_unets_of_odd_widths_and_sizes(width, levels, size):
    denoiser = build_model(ModelConfig(width=width, blocks=1, levels=levels), (3, size, size), 0)
    assert denoiser(torch.randn(2, 3, size, size), torch.ones(2)).shape == (2, 3, size, size)
