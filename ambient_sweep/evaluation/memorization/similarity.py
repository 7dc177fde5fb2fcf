"""How similar samples are to training images in the features of an encoder, beside held-out images as the null.

2404.10177 counts samples whose DINOv2 similarity to their nearest training image exceeds fixed thresholds; a threshold says
little unless one knows how many images that cannot be copies exceed it.
"""

import io

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization.copies import null_threshold
from ambient_sweep.evaluation.neighbours import nearest

BINS = 50
FIXED = 0.0  # lowest edge of histograms that are compared with others
Histograms = dict[str, list[float]]  # counts of images, "generated", "heldout" or others, between the same "edges"


def normalised(features: Tensor) -> Tensor:
    """Features float [N, D] at length 1, float32; zeros stay zeros."""
    return normalize(features.double(), dim=1).float()


def nearest_similarity(features: Tensor, train: Tensor, *, device: str = "cpu") -> Tensor:
    """Cosine float64 [N] of features [N, D] with the nearest of `train`, `normalised` [M, D]: |a - b|^2 = 2 - 2 cos."""
    return 1 - nearest(normalised(features), train, 1, device=device)[0][:, 0].square() / 2


def sim_excess(similarities: Tensor, heldout: Tensor, quantile: float) -> Measure:
    """Share of samples [N] more similar to a training image than the top `quantile` of held-out images [M], minus that.

    The same calibration as `mem_excess`. An encoder may give one and the same features for different images (blank ones,
    say): where more than `quantile` of the held-out images are at similarity 1, the share of samples there is compared with
    the share of held-out images there. Raises UserError where there are too few for the quantile.
    """
    distances, others = 1 - similarities, 1 - heldout
    threshold = null_threshold(others, quantile)
    if threshold > 0:
        return Measure.share(distances < threshold).minus(quantile)
    return Measure.share(distances <= 0).minus(float((others <= 0).double().mean()))


def histograms(generated: Tensor, heldout: Tensor, lowest: float | None = None) -> Histograms:
    """Of similarities [N] and [M], in bins of equal width from `lowest`, by default the lowest one, to 1; clipped."""
    if lowest is None:
        lowest = float(min(generated.min(), heldout.min(), torch.tensor(0.99)))
    edges = np.linspace(lowest, 1 + 1e-9, BINS + 1)
    counts = [np.histogram(each.cpu().clamp(min=lowest).numpy(), edges)[0].tolist() for each in (generated, heldout)]
    return {"edges": edges.tolist(), "generated": counts[0], "heldout": counts[1]}


def histogram_picture(counts: Histograms, title: str) -> bytes:
    """The histograms as shares, a PNG file."""
    from matplotlib.figure import Figure

    figure, buffer = Figure(figsize=(7, 4), layout="constrained"), io.BytesIO()
    axes = figure.subplots()
    for name in sorted({*counts} - {"edges"}, reverse=True):
        fill = name in ("heldout", "generated")
        shares = np.array(counts[name]) / sum(counts[name])
        axes.stairs(shares, counts["edges"], fill=fill, alpha=0.5 if fill else 1, label=name)
    axes.set(xlabel=f"similarity to the nearest training image ({title})", ylabel="share of images")
    axes.legend()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
