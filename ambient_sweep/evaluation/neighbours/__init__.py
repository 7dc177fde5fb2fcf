"""Exact nearest neighbours in L2, with and without mirror images."""

from ambient_sweep.evaluation.neighbours.exact import Targets, nearest
from ambient_sweep.evaluation.neighbours.flips import merge_flips, nearest_with_flips

__all__ = ["Targets", "merge_flips", "nearest", "nearest_with_flips"]
