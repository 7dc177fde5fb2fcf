"""From samples to measures: how good they are, and how much of the training set they give back."""

from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.frechet import frechet
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization import mem_excess, mem_ratio
from ambient_sweep.evaluation.reference import Reference, to_uint8


def evaluate(samples: Tensor, reference: Reference, *, device: str = "cpu") -> dict[str, Measure]:
    """All measures of samples float [N, C, H, W] in [-1, 1], which are clipped and rounded to 8 bits first.

    Keys: the distances of the reference's config, `mem_excess`, `mem_ratio`. Deterministic. Raises AmbientSweepError
    for fewer than two samples, non-finite ones, or images of another size.
    """
    settings = reference.settings
    if tuple(samples.shape[1:]) != settings.shape:
        raise AmbientSweepError(f"samples are {list(samples.shape[1:])}, the real images {list(settings.shape)}")
    if len(samples) < 2:
        raise AmbientSweepError(f"evaluation needs at least 2 samples, not {len(samples)}")
    broken = int((~samples.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise AmbientSweepError(f"{broken} of {len(samples)} samples are not finite; the model has diverged")
    images = to_uint8(samples)
    measures: dict[str, Measure] = {}
    for distance in settings.distances:
        features = reference.encode(distance, images, device)
        measures[distance] = frechet(features, reference.statistics[distance])
    distances = reference.nearest_train(images, 2, device)[0]
    measures["mem_excess"] = mem_excess(distances[:, 0], reference.threshold, settings.quantile)
    measures["mem_ratio"] = mem_ratio(distances)
    return measures
