"""The Inception score: a diagnostic, since it knows no real images (Salimans et al. 2016)."""

import math

import torch
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.measure import Z95, Measure


def inception_score(logits: Tensor, splits: int = 10, *, seed: int = 0) -> Measure:
    """exp of the mean KL divergence of p(class | image) from p(class), of logits or log-probabilities [N, classes].

    The mean over `splits` equal parts of the images, shuffled by seed, as published; the interval is that of this mean, None
    of one part. It grows with the size of a part. Raises AmbientSweepError for fewer images than parts or NaN, ValueError
    for no part.
    """
    if splits < 1:
        raise ValueError(f"inception_score: {splits} splits")
    n = len(logits)
    if n < splits:
        raise AmbientSweepError(f"inception_score needs at least {splits} images, one for each part, not {n}")
    order = torch.from_numpy(rng.permutation("inception_score", seed, 0, n)).to(logits.device)
    p = logits[order].double().softmax(1)
    if not p.isfinite().all():
        raise AmbientSweepError("inception_score needs finite logits; the encoder gave others")
    scores = torch.stack([_score(part) for part in p.tensor_split(splits)])
    value = float(scores.mean())
    if splits == 1:
        return Measure(value, None, None, n, seed=seed)
    half = Z95 * float(scores.std()) / math.sqrt(splits)
    return Measure(value, value - half, value + half, n, seed=seed)


def _score(p: Tensor) -> Tensor:
    divergence = torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))  # 0 log 0 = 0
    score: Tensor = divergence.sum(1).mean().exp()
    return score
