"""How good samples are, from features: distances of distributions, and whether one set covers the other."""

from ambient_sweep.evaluation.fidelity.frechet import (
    Statistics,
    bootstrap,
    frechet,
    frechet_between,
    small_sample_warning,
)
from ambient_sweep.evaluation.fidelity.inception_score import inception_score
from ambient_sweep.evaluation.fidelity.kernel import kid, kid_subsets
from ambient_sweep.evaluation.fidelity.manifold import density_coverage, manifold_measures, precision_recall
from ambient_sweep.evaluation.fidelity.moments import Moments

__all__ = [
    "Moments",
    "Statistics",
    "bootstrap",
    "density_coverage",
    "frechet",
    "frechet_between",
    "inception_score",
    "kid",
    "kid_subsets",
    "manifold_measures",
    "precision_recall",
    "small_sample_warning",
]
