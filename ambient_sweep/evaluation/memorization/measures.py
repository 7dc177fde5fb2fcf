"""How near images are to the training images, and the measures of memorization by name that are made from it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization.copies import LOCAL, heldout_needed, local_distances, mem_excess, mem_ratio
from ambient_sweep.evaluation.memorization.similarity import nearest_similarity, sim_excess
from ambient_sweep.evaluation.neighbours import merge_flips, nearest


@dataclass(frozen=True)
class Nearness:
    """Distances of N images to the training images, L2 of thumbnails, and their similarity in an encoder's features."""

    distances: Tensor  # float64 [N, k] to the nearest LOCAL + 1, or to all where there are fewer, nearest first
    indices: Tensor  # int64 [N, k], of these training images
    flips: Tensor  # float64 [N, 2], where a mirrored training image counts as that image
    similarities: Tensor | None = None  # float64 [N], cosine to the most similar training image

    @classmethod
    def of(
        cls, small: Tensor, train: Tensor, features: Tensor | None = None, similar: Tensor | None = None, *,
        device: str = "cpu",
    ) -> "Nearness":  # fmt: skip
        """Of thumbnails float32 [N, C, h, w] and features [N, D]; `train` and `similar` are those of training images."""
        distances, indices = nearest(small, train, min(LOCAL + 1, len(train)), device=device)
        mirrored = nearest(small.flip(-1), train, 2, device=device)
        flips = merge_flips((distances[:, :2], indices[:, :2]), mirrored)
        similarities = None
        if features is not None and similar is not None:
            similarities = nearest_similarity(features, similar, device=device)
        return cls(distances, indices, flips, similarities)


_DISTANCES: dict[str, Callable[[Nearness], Tensor]] = {
    "mem_excess": lambda found: found.distances[:, 0],
    "mem_local_excess": lambda found: local_distances(found.distances),
    "mem_excess_flips": lambda found: found.flips[:, 0],
}
_PAIRS: dict[str, Callable[[Nearness], Tensor]] = {
    "mem_ratio": lambda found: found.distances,
    "mem_ratio_flips": lambda found: found.flips,
}


def is_measurable(name: str, heldout: Nearness, quantile: float) -> bool:
    """Whether there are enough held-out images for the quantile of a measure, if it has one; copies do not count."""
    usable = math.inf
    if name in _DISTANCES:
        usable = int((_DISTANCES[name](heldout) > 0).sum())
    elif name == "sim_excess":
        usable = len(heldout.distances)
    return usable >= heldout_needed(quantile)


def memorization(
    names: Iterable[str], generated: Nearness, heldout: Nearness, quantile: float
) -> dict[str, tuple[Measure, Measure | None]]:
    """Those of `names` that are measures of memorization, with what held-out images get.

    None stands in place of the latter for a measure that is a difference from held-out images already. Raises UserError
    where there are too few of these for the quantile.
    """
    found: dict[str, tuple[Measure, Measure | None]] = {}
    for name in names:
        if name in _DISTANCES:
            distances = _DISTANCES[name]
            found[name] = mem_excess(distances(generated), distances(heldout), quantile), None
        elif name in _PAIRS:
            found[name] = mem_ratio(_PAIRS[name](generated)), mem_ratio(_PAIRS[name](heldout))
        elif name == "sim_excess" and generated.similarities is not None and heldout.similarities is not None:
            found[name] = sim_excess(generated.similarities, heldout.similarities, quantile), None
    return found
