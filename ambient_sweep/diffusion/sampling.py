"""Samplers: plain functions named after their algorithm."""

import torch

from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.diffusion.noise import karras


def sampling_levels(sigma_max: float, sigma_min: float, steps: int, rho: float, stop: float) -> torch.Tensor:
    """EDM's levels (equation 5) from sigma_max to 0, float64 [steps + 1], with `stop` put in where it is not a level.

    `stop` = 0 leaves them as they are.
    """
    ends = torch.tensor([sigma_max, min(sigma_min, sigma_max)], dtype=torch.float64)
    levels = torch.cat([karras(ends[0], ends[1], steps - 1, rho), torch.zeros(1, dtype=torch.float64)])
    if stop > 0 and not (levels == stop).any():
        levels = torch.cat([levels, torch.tensor([stop], dtype=torch.float64)]).sort(descending=True).values
    return levels


@torch.no_grad()
def heun(denoiser: DenoiserFn, x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The probability flow ODE from levels[0] to levels[-1] by Heun's second-order method (EDM, algorithm 1).

    x [N,C,H,W] lies at levels[0]. The last step to 0 is an Euler step.
    """
    for sigma, lower in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        slope = (x - denoiser(x, x.new_full((len(x),), sigma))) / sigma
        proposal = x + (lower - sigma) * slope
        if lower > 0:
            end_slope = (proposal - denoiser(proposal, x.new_full((len(x),), lower))) / lower
            proposal = x + (lower - sigma) * (slope + end_slope) / 2
        x = proposal
    return x


def one_step(generator: DenoiserFn, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """Samples G(sigma z, sigma) of a one-step generator from standard normal noise z [N,C,H,W]."""
    return generator(noise * sigma, noise.new_full((len(noise),), sigma))


@torch.no_grad()
def sample(
    denoiser: DenoiserFn, noise: torch.Tensor, levels: torch.Tensor, stop: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples from one trajectory, (down to 0, stopped at `stop`), from standard normal noise [N,C,H,W].

    Stopped means the posterior mean D(x, stop) of the state at that level; for stop = 0 both are the same.
    """
    x = noise * float(levels[0])
    if stop <= 0:
        x = heun(denoiser, x, levels)
        return x, x
    at = int((levels == stop).nonzero()[0])
    x = heun(denoiser, x, levels[: at + 1])
    stopped = denoiser(x, x.new_full((len(x),), stop))
    return heun(denoiser, x, levels[at:]), stopped
