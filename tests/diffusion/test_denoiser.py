import pytest
import torch
from torch import nn

from ambient_sweep.diffusion.denoiser import Denoiser, given, guided
from ambient_sweep.diffusion.noise import expand
from ambient_sweep.diffusion.scalings import Edm


class Recorder(nn.Module):
    """A network that keeps what it is given and answers with a fixed tensor."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.calls = answer, []

    def forward(self, *inputs):
        self.calls.append(inputs)
        return self.answer


def labelled(x, sigma, labels):
    """A denoiser whose answer tells its arguments apart."""
    return x + expand(10 * sigma) + expand(100.0 * labels)


def test_the_scalings_of_edm():
    x = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
    answer = torch.full_like(x, 7.0)
    network = Recorder(answer)
    y = Denoiser(network, Edm(0.6))(x, sigma)
    for i, s in enumerate(sigma.tolist()):  # EDM, table 1
        total = s**2 + 0.6**2
        torch.testing.assert_close(y[i], 0.36 / total * x[i] + s * 0.6 / total**0.5 * answer[i])
        torch.testing.assert_close(network.calls[0][0][i], x[i] / total**0.5)
    torch.testing.assert_close(network.calls[0][1][1:], sigma[1:].log() / 4)
    assert torch.equal(y[0], x[0])


def test_the_output_has_the_precision_of_the_input():
    x, sigma = torch.ones(2, 1, 1, 1), torch.tensor([0.001, 1.0])
    y = Denoiser(Recorder(torch.ones(2, 1, 1, 1, dtype=torch.bfloat16)), Edm(0.5))(x, sigma)
    assert y.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Denoiser(Recorder(torch.ones(2, 1, 1, 1, dtype=torch.bfloat16)), Edm(0.5))(x, sigma), y)
    want = 0.25 / (1e-6 + 0.25) + 0.001 * 0.5 / (1e-6 + 0.25) ** 0.5
    assert y[0].item() == pytest.approx(want, rel=1e-6)  # in bf16 this would be 1


def test_given_labels_are_repeated_over_a_stack_of_copies():
    x, sigma = torch.arange(6.0).view(6, 1, 1, 1), torch.arange(6.0)
    labels = torch.tensor([1, 2])
    want = labelled(x, sigma, torch.tensor([1, 2, 1, 2, 1, 2]))
    assert torch.equal(given(labelled, labels)(x, sigma), want)
    assert torch.equal(given(labelled, labels)(x[:2], sigma[:2]), want[:2])
    assert given(labelled, None) is labelled


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_extrapolates_from_no_label_to_the_label(scale):
    calls = []

    def denoiser(x, sigma, labels):
        calls.append(labels.tolist())
        return torch.where(expand(labels) == 7, x**2, x * expand(sigma) * expand(labels))

    x, sigma = torch.tensor([0.5, -2.0, 3.0, 1.0]).view(4, 1, 1, 1), torch.tensor([1.0, 2.0, 0.5, 0.1])
    labels = torch.tensor([3, 5])
    own = x * expand(sigma) * expand(torch.tensor([3, 5, 3, 5]))
    torch.testing.assert_close(guided(denoiser, labels, scale, none=7)(x, sigma), x**2 + scale * (own - x**2))
    assert calls == [[3, 5, 3, 5] if scale == 1 else [3, 5, 3, 5, 7, 7, 7, 7]]
