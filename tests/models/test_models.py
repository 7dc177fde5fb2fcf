"""What every kind of network must do."""

import pytest
import torch
from networks import CLASSES, CONDITIONAL, SHAPE, SMALL, awake, normal

from ambient_sweep.models import build_model, count_parameters

KINDS = list(SMALL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
def test_shapes_and_preconditioning(kind, shape):
    denoiser = build_model(SMALL[kind], shape, 0)
    x, sigma = normal(4, *shape), torch.tensor([0.0, 0.01, 1.0, 80.0])
    y = denoiser(x, sigma)
    assert y.shape == x.shape
    assert torch.equal(y[0], x[0])  # D(x, 0) = x
    # the outlet starts at 0, so D = c_skip x exactly
    skip = 0.25 / (sigma**2 + 0.25)
    torch.testing.assert_close(y, skip[:, None, None, None] * x)
    assert torch.equal(awake(denoiser)(x, sigma)[0], x[0])
    assert not torch.allclose(denoiser(x, sigma)[1:], y[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_trained_and_noise_level_and_label_matter(kind):
    denoiser = build_model(CONDITIONAL[kind], SHAPE, 0, CLASSES)
    optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.1)
    x, labels = normal(8, *SHAPE), torch.arange(8) % (CLASSES + 1)
    for _ in range(3):  # branches that start at 0 let gradients through from the second step on
        optimizer.zero_grad()
        ((denoiser(x, torch.linspace(0.1, 1, 8), labels) - 1) ** 2).mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.parameters())
    network = denoiser.network
    level = torch.full((8,), -1.0)
    assert not torch.equal(network(x, level), network(x, level + 0.1))
    outputs = [network(x, level, torch.full((8,), label)) for label in range(CLASSES + 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    assert torch.equal(network(x, level), outputs[-1])  # the last label is "none"
    assert torch.equal(network(x, level, labels)[5], network(x, level, torch.full((8,), 5 % (CLASSES + 1)))[5])


def test_labels_that_cannot_be():
    for kind in KINDS:
        denoiser = build_model(SMALL[kind], SHAPE, 0, CLASSES)
        assert count_parameters(denoiser) == count_parameters(build_model(SMALL[kind], SHAPE, 0))
        denoiser, unknown = build_model(CONDITIONAL[kind], SHAPE, 0, CLASSES), torch.full((2,), CLASSES + 1)
        with pytest.raises(IndexError):
            denoiser(normal(2, *SHAPE), torch.ones(2), unknown)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("configs", [SMALL, CONDITIONAL])
def test_weights_depend_on_the_seed_alone_and_nothing_touches_the_global_generator(kind, configs):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, other = (build_model(configs[kind], SHAPE, seed, CLASSES) for seed in (0, 1))
    first.train()(normal(2, *SHAPE), torch.ones(2)).sum().backward()  # no dropout either
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    again = build_model(configs[kind], SHAPE, 0, CLASSES)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_is_close_and_keeps_the_noise_level_in_float32(kind):
    denoiser = awake(build_model(CONDITIONAL[kind], SHAPE, 0, CLASSES))
    seen = []
    denoiser.network.embedding.register_forward_hook(lambda _m, _i, output: seen.append(output))
    x, sigma, labels = normal(16, *SHAPE), torch.logspace(-2, 1.5, 16), torch.arange(16) % CLASSES
    c_noise = sigma.log() / 4
    plain, exact = denoiser.network(x, c_noise, labels), denoiser(x, sigma, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rough, output = denoiser.network(x, c_noise, labels), denoiser(x, sigma, labels)
    assert rough.dtype == torch.bfloat16
    assert output.dtype == torch.float32
    assert 0 < (rough - plain).norm() < 0.02 * plain.norm()
    assert (output - exact).norm() < 0.01 * exact.norm()
    assert seen[2].dtype == torch.float32
    assert torch.equal(seen[0], seen[2])  # with and without autocast, to the bit


@pytest.mark.parametrize("kind", KINDS)
def test_networks_compile_without_a_graph_break(kind):
    network = awake(build_model(CONDITIONAL[kind], SHAPE, 0, CLASSES).network)
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    x, c_noise, labels = normal(2, *SHAPE), torch.tensor([-1.0, 0.5]), torch.tensor([0, 2])
    torch.testing.assert_close(compiled(x, c_noise, labels), network(x, c_noise, labels))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x, c_noise), network(x, c_noise))
