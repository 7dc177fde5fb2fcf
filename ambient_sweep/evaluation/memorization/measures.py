"""The measures of memorization by name, from how near generated and held-out images are to the training images."""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization.copies import (
    local_distances,
    mem_excess,
    mem_ratio,
    neighbourhood_ratio,
    null_threshold,
)
from ambient_sweep.evaluation.memorization.nearness import Nearness
from ambient_sweep.evaluation.memorization.similarity import SIMILARITIES, share_above, sim_excess

_DISTANCES: dict[str, Callable[[Nearness], Tensor]] = {
    "mem_excess": lambda found: found.distances[:, 0],
    "mem_local_excess": lambda found: local_distances(found.distances),
    "mem_excess_flips": lambda found: found.flips[:, 0],
}
_SHARES: dict[str, Callable[[Nearness], Measure]] = {
    "mem_ratio": lambda found: mem_ratio(found.distances),
    "mem_ratio_flips": lambda found: mem_ratio(found.flips),
    "mem_neighbourhood": lambda found: neighbourhood_ratio(found.distances),
    **{f"sim_above_{s:g}": lambda found, s=s: share_above(found.similarities, s) for s in SIMILARITIES},  # type: ignore[misc]
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
            threshold = null_threshold(_DISTANCES[name](heldout), quantile)
            yield name, mem_excess(_DISTANCES[name](generated), threshold, quantile), None
        elif name in _SHARES:
            yield name, _SHARES[name](generated), _SHARES[name](heldout)
        elif name == "sim_excess" and generated.similarities is not None and heldout.similarities is not None:
            yield name, sim_excess(generated.similarities, heldout.similarities, quantile), None


def check_quantile(names: Iterable[str], heldout: Nearness, quantile: float) -> None:
    """Raises UserError where there are too few held-out images for one of `names` that counts below a quantile."""
    for name in {*names} & {*_DISTANCES}:
        null_threshold(_DISTANCES[name](heldout), quantile)
