"""Activations forgotten and computed again: the same gradients from less memory."""

import copy

import pytest
import torch
from networks import CLASSES, CONDITIONAL, SHAPE, SMALL, awake, normal

from ambient_sweep.models import build_model, checkpoint_activations


def gradients(network, bf16=False):
    """The gradient of every weight, and how many numbers the graph held for the backward pass."""
    held = {}

    def pack(tensor):
        held[tensor.data_ptr()] = tensor.numel()
        return tensor

    x, c_noise, labels = normal(4, *SHAPE), torch.linspace(-1, 0.5, 4), torch.tensor([0, 1, 2, 3])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", enabled=bf16):
        loss = (network(x, c_noise, labels) ** 2).mean()
    loss.backward()
    weights = {p.data_ptr() for p in network.parameters()}
    return [p.grad for p in network.parameters()], sum(n for at, n in held.items() if at not in weights)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_are_the_same_to_the_bit_and_fewer_tensors_are_held(kind, bf16):
    plain = awake(build_model(CONDITIONAL[kind], SHAPE, 0, CLASSES).network)
    lean = copy.deepcopy(plain)
    checkpoint_activations(lean)
    assert list(lean.state_dict()) == list(plain.state_dict())
    want, much = gradients(plain, bf16)
    got, little = gradients(lean, bf16)
    assert all(g.abs().sum() > 0 for g in want)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert little < 0.5 * much
