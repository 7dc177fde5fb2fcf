"""Memorization that samples show: copies in pixels, similarity in features."""

from ambient_sweep.evaluation.memorization.copies import mem_ratio, thumbnails
from ambient_sweep.evaluation.memorization.measures import Nearness, memorization
from ambient_sweep.evaluation.memorization.similarity import histograms, nearest_similarity, normalised

__all__ = ["Nearness", "histograms", "mem_ratio", "memorization", "nearest_similarity", "normalised", "thumbnails"]
