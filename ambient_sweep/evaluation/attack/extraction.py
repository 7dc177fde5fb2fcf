"""The extraction attack (2404.10177): damage training images beyond recognition, let the model restore them, compare.

What can only be restored from memory comes back if the image is memorized. Held-out images, damaged in the same way, show
how much comes back without memory. Void where the model's samples are garbage: it restores nothing, memorized or not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ambient_sweep.config import SamplingConfig
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.diffusion.sampling import heun, sampling_levels
from ambient_sweep.evaluation.attack.subjects import Subjects, sigmas_of
from ambient_sweep.evaluation.decoding import Decode, as_pixels
from ambient_sweep.evaluation.grids import image_grid
from ambient_sweep.evaluation.measure import Z95, Measure

Restore = Literal["mean", "sampling", "masked"]
Pictures = tuple[Tensor, Tensor, Tensor]  # original, damaged and restored images, each [K, C, H, W], on the CPU
_Restored = tuple[Tensor, Pictures]  # with their errors, [K]
MARGIN = 1.1  # times the error of chance, above which a model restores nothing
NEAR = 0.1  # root mean square error, data in [-1, 1], below which a restoration is near perfect
FALSE_POSITIVES = 0.01
LEAST = 99  # held-out images that its quantile needs
HIDDEN = 0.5  # share of the image that masking hides
SHOWN = 8  # images of either set in the picture


@dataclass(frozen=True)
class Attack:
    """How images are damaged and restored.

    stop: level at which sampling ends with the posterior mean; 0: it goes down to 0. noise: levels, of which those above
    `stop` count; twice `stop` where there is none. Masking replaces a square in the middle by noise while the rest is given.
    """

    sampling: SamplingConfig
    stop: float = 0.0
    seed: int = 0
    noise: tuple[float, ...] = (1.0, 2.0, 4.0)

    def steps_from(self, sigma: float) -> Tensor:
        """The levels of sampling from `sigma` down to 0 or to `stop`, float64."""
        s = self.sampling
        levels = sampling_levels(sigma, min(s.sigma_min, sigma / 2), s.steps, s.rho, self.stop)
        return levels[levels >= self.stop]


@dataclass(frozen=True)
class Result:
    """One way of damaging and restoring: errors, measures and pictures of both sets.

    name: as in a table, attack_mean_2. errors: of the training images, root mean square over the damaged pixels, [N].
    measures, each with what held-out images get: `_error`, the mean error; `_auc`, the probability that a training image
    comes back better than a held-out one; `_tpr`, the share of training images restored better than all but 1 % of held-out
    ones; `_near`, the share restored nearly perfectly.
    """

    name: str
    errors: Tensor
    measures: dict[str, tuple[Measure, Measure | None]]
    void: bool  # images of neither set come back better than if others were taken: nothing follows
    train: Pictures  # of the best restored
    heldout: Pictures


@torch.no_grad()
def attack(
    denoiser: Callable[..., Tensor], train: Subjects, heldout: Subjects, how: Attack, *, device: str = "cpu"
) -> list[Result]:
    """Every level by the posterior mean and by sampling, and the masked images; `heldout` holds LEAST or more."""
    levels = tuple(sigma for sigma in how.noise if sigma > how.stop) or (2 * how.stop,)
    ways: list[tuple[Restore, float]] = [(r, sigma) for sigma in levels for r in ("mean", "sampling")]
    ways.append(("masked", how.sampling.sigma_max))
    found = []
    for restore, sigma in ways:
        restored = [_restored(denoiser, each, how, restore, sigma, device) for each in (train, heldout)]
        found.append(_result(restore, sigma, *restored))
    return found


def _result(restore: Restore, sigma: float, train: _Restored, heldout: _Restored) -> Result:
    name = "attack_masked" if restore == "masked" else f"attack_{restore}_{sigma:g}"
    (errors, _), (others, (images, *_)) = train, heldout
    mask = _hidden(images.shape[-2:]) if restore == "masked" else None
    # the mean is nearer to an image than another image is, by a factor of the square root of 2
    chance = (1 if restore == "mean" else math.sqrt(2)) * _rms(images - images.mean(0), mask).mean()
    least = np.quantile(others.numpy(), FALSE_POSITIVES, method="weibull")
    shown = min(SHOWN, len(errors), len(others))
    return Result(
        name,
        errors,
        {
            f"{name}_error": (Measure.mean(errors), Measure.mean(others)),
            f"{name}_auc": (auc(errors, others), None),
            f"{name}_tpr": (Measure.share(errors < least), None),
            f"{name}_near": (Measure.share(errors < NEAR), Measure.share(others < NEAR)),
        },
        bool(min(errors.mean(), others.mean()) >= MARGIN * chance),
        _best(*train, shown),
        _best(*heldout, shown),
    )


def _best(errors: Tensor, pictures: Pictures, shown: int) -> Pictures:
    """The `shown` best restored, the best first."""
    order = errors.sort(stable=True).indices[:shown]
    original, damaged, restored = pictures
    return original[order], damaged[order], restored[order]


def auc(smaller: Tensor, larger: Tensor) -> Measure:
    """The probability that a value of the first is below one of the second, ties half, with DeLong's interval (1988)."""
    a, b = smaller.double().sort().values, larger.double().sort().values
    n, m = len(a), len(b)
    of_a = 1 - (torch.searchsorted(b, a) + torch.searchsorted(b, a, right=True)).double() / (2 * m)
    of_b = (torch.searchsorted(a, b) + torch.searchsorted(a, b, right=True)).double() / (2 * n)
    value = float(of_a.mean())
    half = Z95 * math.sqrt(float(of_a.var()) / n + float(of_b.var()) / m)
    return Measure(value, max(0.0, value - half), min(1.0, value + half), n)


def worst_cases(result: Result, decode: Decode = as_pixels) -> bytes:
    """A PNG file: rows of originals, damaged and restored training images, a gap, and the same of held-out images."""
    train, heldout = (torch.cat([*map(decode, each)]) for each in (result.train, result.heldout))
    shown = len(result.train[0])
    return image_grid(torch.cat([train, torch.ones_like(train[:shown]), heldout]), shown)


def _restored(
    denoiser: Callable[..., Tensor], subjects: Subjects, how: Attack, restore: Restore, level: float, device: str
) -> _Restored:
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, noise, bound in subjects.batches(denoiser, device, f"attack/{level:g}", how.seed):
        damaged, hidden = images + level * noise, None
        if restore == "masked":
            hidden = _hidden(images.shape[-2:]).to(device)
            damaged = torch.where(hidden, noise, images)
            restored = _inpaint(bound, images, hidden, noise, how)
        elif restore == "mean":
            restored = bound(damaged, sigmas_of(damaged, level))
        else:
            restored = _finished(bound, heun(bound, damaged, how.steps_from(level)), how.stop)
        rows.append((_rms(restored - images, hidden).cpu(), damaged.cpu(), restored.cpu()))
    errors, damaged_all, restored_all = (torch.cat(each) for each in zip(*rows, strict=True))
    return errors, (subjects.images, damaged_all, restored_all)


def _inpaint(denoiser: DenoiserFn, images: Tensor, hidden: Tensor, noise: Tensor, how: Attack) -> Tensor:
    """The hidden part by sampling, where after every step the known part is put back with its level's noise (Song 2021)."""
    levels = how.steps_from(how.sampling.sigma_max)
    x = how.sampling.sigma_max * noise
    for step in range(len(levels) - 1):
        x = torch.where(hidden, x, images + float(levels[step]) * noise)
        x = heun(denoiser, x, levels[step : step + 2])
    x = _finished(denoiser, torch.where(hidden, x, images + how.stop * noise), how.stop)
    return torch.where(hidden, x, images)


def _finished(denoiser: DenoiserFn, x: Tensor, stop: float) -> Tensor:
    """The posterior mean where sampling has stopped above 0."""
    return x if stop <= 0 else denoiser(x, sigmas_of(x, stop))


def _hidden(size: Sequence[int]) -> Tensor:
    """bool [H, W], True in a square in the middle that holds about HIDDEN of the image, and at least a pixel."""
    mask = torch.zeros(*size, dtype=torch.bool)
    sides = [max(1, min(side - 1, round(side * math.sqrt(HIDDEN)))) for side in size]
    top, left = ((side - own) // 2 for side, own in zip(size, sides, strict=True))
    mask[top : top + sides[0], left : left + sides[1]] = True
    return mask


def _rms(difference: Tensor, mask: Tensor | None) -> Tensor:
    """Root mean square per image, float64 [N], over the pixels of the mask."""
    squares = difference.double().square()
    return (squares.flatten(1) if mask is None else squares[..., mask].flatten(1)).mean(1).sqrt()
