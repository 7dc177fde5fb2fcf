"""Memorization that samples show: copies in pixels, similarity in features, published diagnostics."""

from ambient_sweep.evaluation.memorization.copies import (
    LOCAL,
    NEIGHBOURHOOD,
    local_distances,
    mem_excess,
    mem_ratio,
    neighbourhood_ratio,
    null_threshold,
    shares_below,
    thumbnails,
)
from ambient_sweep.evaluation.memorization.diagnostics import authpct, c_t
from ambient_sweep.evaluation.memorization.similarity import (
    SIMILARITIES,
    SimilarityHistograms,
    nearest_similarity,
    normalised,
    shares_above,
    sim_excess,
)

__all__ = [
    "LOCAL",
    "NEIGHBOURHOOD",
    "SIMILARITIES",
    "SimilarityHistograms",
    "authpct",
    "c_t",
    "local_distances",
    "mem_excess",
    "mem_ratio",
    "nearest_similarity",
    "neighbourhood_ratio",
    "normalised",
    "null_threshold",
    "shares_above",
    "shares_below",
    "sim_excess",
    "thumbnails",
]
