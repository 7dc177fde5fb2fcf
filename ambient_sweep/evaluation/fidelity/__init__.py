"""How good samples are, from features: distances of distributions, and whether one set covers the other."""

from ambient_sweep.evaluation.fidelity.frechet import Statistics, frechet, statistics
from ambient_sweep.evaluation.fidelity.kernel import kid
from ambient_sweep.evaluation.fidelity.manifold import manifold_measures

__all__ = ["Statistics", "frechet", "kid", "manifold_measures", "statistics"]
