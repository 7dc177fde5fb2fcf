"""From samples to measures: how good they are, and how much of the training set they give back."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ambient_sweep.config import EvaluationConfig, Extra
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity import density_coverage, frechet, kid, manifold_measures, precision_recall
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization import (
    LOCAL,
    local_distances,
    mem_excess,
    mem_ratio,
    nearest_similarity,
    sim_excess,
    thumbnails,
)
from ambient_sweep.evaluation.neighbours import nearest, nearest_with_flips
from ambient_sweep.evaluation.reference import Reference
from ambient_sweep.training.group import SINGLE, Group


def evaluate(
    samples: Tensor, reference: Reference, *, device: str = "cpu", group: Group = SINGLE
) -> dict[str, Measure]:
    """All measures of samples float [N, C, H, W] in [-1, 1], which are clipped and rounded to 8 bits first.

    Keys: the distances of the reference's config, its extras (in the features of its fidelity), `mem_*`, and
    `sim_excess` with evaluation.similarity. Of several workers each, having all samples, encodes and compares a part;
    rank 0 has the measures, the others nothing. Deterministic. Raises AmbientSweepError for fewer samples than a measure
    needs, non-finite ones, or images of another size.
    """
    settings = reference.settings
    config: EvaluationConfig = settings.evaluation
    if tuple(samples.shape[1:]) != settings.shape:
        raise AmbientSweepError(f"samples are {list(samples.shape[1:])}, the real images {list(settings.shape)}")
    if len(samples) < 2:
        raise AmbientSweepError(f"evaluation needs at least 2 samples, not {len(samples)}")
    broken = int((~samples.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise AmbientSweepError(f"{broken} of {len(samples)} samples are not finite; the model has diverged")
    n, part = len(samples), group.share(len(samples))
    images = to_uint8(samples[part.start : part.stop])

    def gathered(rows: Tensor) -> Tensor:
        return group.gather(rows.to(device), n)

    distances = dict.fromkeys((*config.distances, *([config.similarity] if config.similarity else [])))
    features = {name: gathered(reference.encode(name, images, device)) for name in distances}
    small = thumbnails(images)
    plain = gathered(nearest(small, reference.train, min(LOCAL + 1, len(reference.train)), device=device)[0])
    flips = gathered(nearest_with_flips(small, reference.train, 2, device=device)[0])
    similar = None
    if reference.similarity is not None and config.similarity is not None:
        mine = features[config.similarity][part.start : part.stop]
        similar = gathered(nearest_similarity(mine, reference.similarity, device=device))
    if group.rank != 0:
        return {}
    measures: dict[str, Measure] = {}
    for distance in config.distances:
        measure = frechet(features[distance], reference.statistics[distance])
        measures[distance] = replace(measure, encoder=reference.encoder(distance, device).name)
    name = reference.encoder(config.fidelity, device).name
    measures |= fidelity_extras(config.extras, features[config.fidelity], reference.features.to(device), name)
    measures["mem_excess"] = mem_excess(plain[:, 0], reference.threshold, settings.quantile)
    measures["mem_local_excess"] = mem_excess(local_distances(plain), reference.threshold_local, settings.quantile)
    measures["mem_ratio"] = mem_ratio(plain)
    measures["mem_excess_flips"] = mem_excess(flips[:, 0], reference.threshold_flips, settings.quantile)
    measures["mem_ratio_flips"] = mem_ratio(flips)
    if similar is not None and reference.heldout_similarities is not None and config.similarity is not None:
        excess = sim_excess(similar, reference.heldout_similarities, settings.quantile)
        measures["sim_excess"] = replace(excess, encoder=reference.encoder(config.similarity, device).name)
    return measures


def fidelity_extras(extras: Sequence[Extra], features: Tensor, real: Tensor, encoder: str) -> dict[str, Measure]:
    """The measures that `extras` name, of features [N, D] of samples and [M, D] of held-out images by one encoder."""
    found: dict[str, Measure] = {}
    if "kid" in extras:
        found["kid"] = kid(features, real)
    first, second = {"precision", "recall"} & {*extras}, {"density", "coverage"} & {*extras}
    if first and second:
        found |= manifold_measures(features, real)
    elif first:
        found["precision"], found["recall"] = precision_recall(features, real)
    elif second:
        found["density"], found["coverage"] = density_coverage(features, real)
    return {name: replace(found[name], encoder=encoder) for name in extras}
