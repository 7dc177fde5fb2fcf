"""The measures of memorization by name, from how near generated and held-out images are to the training images."""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization.copies import local_distances, mem_excess, mem_ratio, null_threshold
from ambient_sweep.evaluation.memorization.nearness import Nearness
from ambient_sweep.evaluation.memorization.similarity import sim_excess

_DISTANCES: dict[str, Callable[[Nearness], Tensor]] = {
    "mem_excess": lambda found: found.distances[:, 0],
    "mem_local_excess": lambda found: local_distances(found.distances),
    "mem_excess_flips": lambda found: found.flips[:, 0],
}
_PAIRS: dict[str, Callable[[Nearness], Tensor]] = {
    "mem_ratio": lambda found: found.distances,
    "mem_ratio_flips": lambda found: found.flips,
}


def memorization(
    names: Iterable[str], generated: Nearness, heldout: Nearness, quantile: float
) -> Iterator[tuple[str, Measure, Measure | None]]:
    """Those of `names` that are measures of memorization, with what held-out images get.

    None stands in place of the latter for a measure that is a difference from held-out images already. Raises UserError
    where there are too few of these for the quantile.
    """
    for name in names:
        if name in _DISTANCES:
            distances = _DISTANCES[name]
            yield name, mem_excess(distances(generated), distances(heldout), quantile), None
        elif name in _PAIRS:
            yield name, mem_ratio(_PAIRS[name](generated)), mem_ratio(_PAIRS[name](heldout))
        elif name == "sim_excess" and generated.similarities is not None and heldout.similarities is not None:
            yield name, sim_excess(generated.similarities, heldout.similarities, quantile), None


def check_quantile(names: Iterable[str], heldout: Nearness, quantile: float) -> None:
    """Raises UserError where there are too few held-out images for one of `names` that counts below a quantile."""
    for name in {*names} & {*_DISTANCES}:
        distances = _DISTANCES[name](heldout)
        null_threshold(distances[distances > 0], quantile)
