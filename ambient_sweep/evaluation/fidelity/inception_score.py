"""The Inception score: a diagnostic, since it knows no real images (Salimans et al. 2016)."""

import math

import torch
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.measure import Z95, Measure


def inception_score(logits: Tensor, splits: int = 10) -> Measure:
    """exp of the mean KL divergence of p(class | image) from p(class), over parts of logits [N, classes] in order.

    The mean of the parts' scores, as published, with the interval of that mean. Raises AmbientSweepError for fewer logits
    than parts.
    """
    if len(logits) < splits:
        raise AmbientSweepError(f"inception_score needs at least {splits} images, not {len(logits)}")
    logs = logits.double().log_softmax(1)
    scores = []
    for part in torch.tensor_split(logs, splits):
        marginal = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    values = torch.stack(scores)
    mean = float(values.mean())
    half = Z95 * float(values.std()) / math.sqrt(splits) if splits > 1 else 0.0
    return Measure(mean, mean - half, mean + half, len(logits))
