"""Preconditioning (EDM, arXiv 2206.00364, section 5) around any network, and denoisers bound to class labels."""

from collections.abc import Callable

import torch
from torch import nn

from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.diffusion.noise import expand
from ambient_sweep.diffusion.scalings import Scaling


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(x / scale, c_noise), an estimate of E[x_0 | x_t = x]; `scaling` says what F is.

    `network(x [N,C,H,W], c_noise [N]) -> [N,C,H,W]`, with labels [N] as a third argument where they are given. At sigma = 0,
    D(x, 0) = x exactly. The scalings are computed in the precision of x and sigma, whatever the network computes in.
    """

    def __init__(self, network: nn.Module, scaling: Scaling) -> None:
        super().__init__()
        self.network = network
        self.scaling = scaling

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """x [N,C,H,W], sigma [N] and labels int64 [N] (None: no label for all) to the denoised image [N,C,H,W]."""
        c = self.scaling.coefficients(sigma)
        scaled = x / expand(c.scale)
        inputs = (scaled, c.c_noise) if labels is None else (scaled, c.c_noise, labels)
        output: torch.Tensor = expand(c.c_skip) * x + expand(c.c_out) * self.network(*inputs).to(x.dtype)
        return output


def given(denoiser: Callable[..., torch.Tensor], labels: torch.Tensor | None) -> DenoiserFn:
    """D(x, sigma) of images with these labels, int64 [N] or None.

    x may hold several copies of the N images, one after another.
    """
    if labels is None:
        return denoiser

    def bound(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return denoiser(x, sigma, labels.repeat(len(x) // len(labels)))

    return bound


def guided(denoiser: Callable[..., torch.Tensor], labels: torch.Tensor, scale: float, none: int) -> DenoiserFn:
    """Classifier-free guidance (arXiv 2207.12598, equation 6): D_none + scale (D_label - D_none), `none` being "no label".

    scale = 1 is the conditional denoiser itself; above it both are computed as one batch of twice the size.
    """
    if scale == 1:
        return given(denoiser, labels)

    def bound(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        own = labels.repeat(len(x) // len(labels))
        both = denoiser(x.repeat(2, 1, 1, 1), sigma.repeat(2), torch.cat([own, torch.full_like(own, none)]))
        labelled, unlabelled = both.chunk(2)
        return unlabelled + scale * (labelled - unlabelled)

    return bound
