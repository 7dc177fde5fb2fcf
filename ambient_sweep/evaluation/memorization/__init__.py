"""Memorization that samples show: copies in pixels, similarity in features."""

from ambient_sweep.evaluation.memorization.copies import mem_ratio, thumbnails
from ambient_sweep.evaluation.memorization.measures import Nearness, check_quantile, memorization
from ambient_sweep.evaluation.memorization.similarity import SimilarityHistograms, nearest_similarity, normalised

__all__ = [
    "Nearness", "SimilarityHistograms", "check_quantile", "mem_ratio", "memorization", "nearest_similarity",
    "normalised", "thumbnails",
]  # fmt: skip
