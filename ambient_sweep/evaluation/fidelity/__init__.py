"""How good samples are, from features: distances of distributions, and whether one set covers the other."""

from ambient_sweep.evaluation.fidelity.extrapolation import frechet_infinity
from ambient_sweep.evaluation.fidelity.frechet import Statistics, bootstrap, frechet, frechet_between
from ambient_sweep.evaluation.fidelity.inception_score import inception_score
from ambient_sweep.evaluation.fidelity.kernel import kid, kid_subsets
from ambient_sweep.evaluation.fidelity.manifold import density_coverage, precision_recall
from ambient_sweep.evaluation.fidelity.moments import Moments

__all__ = [
    "Moments",
    "Statistics",
    "bootstrap",
    "density_coverage",
    "frechet",
    "frechet_between",
    "frechet_infinity",
    "inception_score",
    "kid",
    "kid_subsets",
    "precision_recall",
    "small_sample_warning",
]


def small_sample_warning(n: int, dimension: int) -> str | None:
    """A line where n images are too few to fit a Gaussian of that dimension; None where they are enough."""
    if n > 2 * dimension:
        return None
    return (
        f"{n} images are few for {dimension} features: the distance is biased upwards, more than models may differ; "
        "compare it with what real images get, and only with values at the same number"
    )
