"""Averages of the weights: exponential ones, power functions, and any length of these from stored ones.

Power functions are EDM2's (arXiv 2312.02696, section 3). Time t counts images, and theta(tau) are the weights after the step
that trained image tau. An average of exponent gamma is

    theta_gamma(t) = integral_0^t p(tau) theta(tau) dtau        p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)

p is its profile. Its standard deviation over t is the average's *length* (EDM2's sigma_rel). docs/averages.md derives all.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ema_decay(images: int, batch_size: int, halflife: int, rampup: float) -> float:
    """Decay of one step: 0.5 ** (batch_size / halflife), with the half-life held below rampup * images (EDM)."""
    length = min(float(halflife), images * rampup)
    return 0.0 if length <= 0 else 0.5 ** (batch_size / length)


@torch.no_grad()
def ema_update(average: Iterable[torch.Tensor], weights: Iterable[torch.Tensor], decay: float) -> None:
    """average <- decay average + (1 - decay) weights, in place."""
    torch._foreach_lerp_(list(average), list(weights), 1 - decay)


def gamma_from_length(length: float) -> float:
    """The exponent gamma >= 0 of a length in (0, 12^(-1/2)], the spread of the profile.

    length = ((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))^(1/2).
    """
    # With u = gamma + 1, length^2 (u + 1)^2 (u + 2) = u, a cubic of three real roots; Viete's formula, the largest root.
    inverse = length**-2
    p, q = -(1 / 3 + inverse), 2 / 27 + 4 * inverse / 3  # u = v - 4/3 turns it into v^3 + p v + q = 0
    scale = math.sqrt(-p / 3)
    angle = math.acos(max(-1.0, min(1.0, 3 * q / (2 * p * scale))))
    return max(0.0, 2 * scale * math.cos(angle / 3) - 7 / 3)


def decay(images_before: int, images: int, gamma: float) -> float:
    """beta of the step from `images_before` to `images`: theta_gamma <- beta theta_gamma + (1 - beta) theta.

    (images_before / images)^(gamma + 1), which makes the average the exact integral for weights that are constant between
    steps, whatever the batch size. 0 at the first step.
    """
    return float((images_before / images) ** (gamma + 1))


def inner_products(gammas_a: ArrayLike, images_a: ArrayLike, gammas_b: ArrayLike, images_b: ArrayLike) -> Floats:
    """integral p_a(tau) p_b(tau) dtau of all pairs of profiles, [A, B], in 1/images.

    (gamma_a + 1)(gamma_b + 1) / (gamma_a + gamma_b + 1) * (least / most)^(gamma of most) / most, of the two image counts.
    """
    gamma_a, t_a = np.asarray(gammas_a, np.float64)[:, None], np.asarray(images_a, np.float64)[:, None]
    gamma_b, t_b = np.asarray(gammas_b, np.float64)[None, :], np.asarray(images_b, np.float64)[None, :]
    least, most = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    of_most = np.where(t_a > t_b, gamma_a, gamma_b)
    product: Floats = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * (least / most) ** of_most / most
    return product


def coefficients(length: float, images: int, lengths: ArrayLike, positions: ArrayLike) -> tuple[Floats, float]:
    """The weights x [S] that bring sum_i x_i p_i nearest to the profile of `length` at `images`, with sum_i x_i = 1.

    Also returns the relative L2 error of the profile that is left.

    `lengths` and `positions` [S] are those of the stored averages, each pair once. The least squares problem of EDM2
    (section 3.2) under one constraint, without which all weights shrink or grow by what the sum misses. Solved in float64. A
    stored average that is the wanted one is taken as it is.
    """
    stored, at = np.asarray(lengths, np.float64), np.asarray(positions, np.float64)
    same = (stored == length) & (at == images)
    if same.any():
        return same.astype(np.float64), 0.0
    gammas = np.array([gamma_from_length(value) for value in stored])
    wanted, t = [gamma_from_length(length)], at / images  # in units of the wanted time
    gram, target = inner_products(gammas, t, gammas, t), inner_products(gammas, t, wanted, [1.0])[:, 0]
    scale = 1 / np.sqrt(np.diag(gram))  # profiles of norm 1: a better condition
    count = len(t)
    system = np.zeros((count + 1, count + 1))  # stationary point of the Lagrange function
    system[:count, :count] = gram * scale[:, None] * scale
    system[count, :count] = system[:count, count] = scale
    x = np.linalg.lstsq(system, np.append(target * scale, 1.0), rcond=None)[0][:count] * scale
    x /= x.sum()
    norm = inner_products(wanted, [1.0], wanted, [1.0])[0, 0]
    error = norm - 2 * target @ x + x @ gram @ x
    return x, math.sqrt(max(error, 0.0) / norm)
