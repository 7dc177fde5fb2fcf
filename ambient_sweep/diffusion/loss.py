"""The losses of ambient diffusion, each as its equation: a value per sample [N], noise given from outside.

Sources: Daras et al., *Consistent Diffusion Meets Tweedie*, arXiv 2404.10177; Karras et al., *EDM*, arXiv 2206.00364.
A denoiser is any function (x [N,C,H,W], sigma [N]) -> [N,C,H,W]. docs/math.md derives the equations.
"""

from collections.abc import Callable

import torch

from ambient_sweep.diffusion.noise import expand

DenoiserFn = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

MIN_ONE_MINUS_R = 1e-3


def mean_over_pixels(x: torch.Tensor) -> torch.Tensor:
    """[N,C,H,W] to [N]."""
    return x.flatten(1).mean(1)


def ambient_loss(
    denoiser: DenoiserFn,
    y: torch.Tensor,
    sigma_n: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """w / (1 - r) || (1 - r) D(x_t, sigma) + r x_t - y ||^2 with r = sigma_n^2 / sigma^2 (2404.10177, theorem 4.1).

    y = x_0 + sigma_n eps is the observation and x_t = y + sqrt(sigma^2 - sigma_n^2) n, so that
    E[y | x_t] = (1 - r) E[x_0 | x_t] + r x_t: the minimiser is E[x_0 | x_t] although no x_0 is seen. For sigma_n = 0 it is
    the denoising loss w || D(x_0 + sigma n, sigma) - x_0 ||^2 (EDM, equation 2). sigma >= sigma_n, all [N]; 1 - r is held
    above 1e-3 in the weight.
    """
    added = (sigma**2 - sigma_n**2).clamp_min(0).sqrt()
    xt = y + expand(added) * noise
    r = (sigma_n / sigma) ** 2
    residual = expand(1 - r) * denoiser(xt, sigma) + expand(r) * xt - y
    return weight / (1 - r).clamp_min(MIN_ONE_MINUS_R) * mean_over_pixels(residual**2)


def reverse_step(
    x: torch.Tensor, x0: torch.Tensor, sigma: torch.Tensor, lower: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """A draw from q(x_lower | x_sigma = x, x_0), the reverse step of the variance exploding process.

    Mean (lower/sigma)^2 x + (1 - (lower/sigma)^2) x_0, variance lower^2 (1 - (lower/sigma)^2).
    """
    q = expand((lower / sigma) ** 2)
    spread = expand(lower) * (1 - q).clamp_min(0).sqrt()
    return q * x + (1 - q) * x0 + spread * noise


def roll_out(denoiser: DenoiserFn, x: torch.Tensor, levels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """x at levels[:, 0] carried down to levels[:, -1] by reverse steps with x_0 = D(x, level).

    levels [N,K+1] descending, noise [N,K,C,H,W].
    """
    for k in range(levels.shape[1] - 1):
        x = reverse_step(x, denoiser(x, levels[:, k]), levels[:, k], levels[:, k + 1], noise[:, k])
    return x


def consistency_loss(
    denoiser: DenoiserFn,
    x: torch.Tensor,
    levels: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    *,
    draws: int = 2,
) -> torch.Tensor:
    """w < D(x', s') - sg[D(x, s)], D(x'', s') - sg[D(x, s)] > (2404.10177, section 4.2, in its unbiased form).

    x [N,C,H,W] lies at s = levels[:, 0]; levels [N,K+1] descend to s' = levels[:, -1]. `draws` *independent* chains of
    reverse steps lead from x to as many x' at s', without gradient. sg: no gradient. noise [N, draws K, C,H,W].
    With d_i = D(x'_i, s') - sg[D(x, s)], the mean of <d_i, d_j> over all pairs i != j is an unbiased estimate of
    || E[D(x', s') | x] - D(x, s) ||^2 and negative in about half of the draws; squaring one d_i, or the mean of several,
    would add their variance.
    """
    steps = levels.shape[1] - 1
    with torch.no_grad():
        target = denoiser(x, levels[:, 0])
        parts = noise.reshape(len(x), draws, steps, *x.shape[1:]).transpose(0, 1)
        first = [reverse_step(x, target, levels[:, 0], levels[:, 1], part[:, 0]) for part in parts]
        lower = levels[:, 1:].repeat(draws, 1)
        ends = roll_out(denoiser, torch.cat(first), lower, parts[:, :, 1:].flatten(0, 1))
    error = denoiser(ends, lower[:, -1]).view(draws, *x.shape) - target
    pairs = error.sum(0) ** 2 - (error**2).sum(0)  # the sum of d_i d_j over all pairs i != j
    return weight * mean_over_pixels(pairs) / (draws * (draws - 1))


def distillation_loss(
    teacher: DenoiserFn, fake: DenoiserFn, x: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor, alpha: float
) -> torch.Tensor:
    """< a - b, a - x - alpha (a - b) > / sg[mean |x - a|] with a = teacher(x_t, sigma), b = fake(x_t, sigma).

    Score identity distillation (arXiv 2404.04057, section 4; of a teacher of noisy data: 2503.07578). x [N,C,H,W] is what a
    generator made, with gradient, and x_t = x + sigma n; the weights of both denoisers have none. Where b = E[x | x_t],
    the denoiser of the generator's own images, E < a - b, a - x > = E || a - b ||^2, sigma^4 times the squared difference of
    both scores: 0 where generated images, noised to sigma, are distributed as the teacher's. alpha: the weight
    of || a - b ||^2 itself, which is subtracted: where b lags, it is off otherwise than < a - b, a - x >.
    """
    xt = x + expand(sigma) * noise
    a, b = teacher(xt, sigma), fake(xt, sigma)
    size = mean_over_pixels((x - a).detach().abs())
    return mean_over_pixels((a - b) * (a - x - alpha * (a - b))) / size
