"""Nearest neighbours in L2: exact on one device, exact with mirror images, approximate for sets past ten million."""

from ambient_sweep.evaluation.neighbours.approximate import ApproximateIndex
from ambient_sweep.evaluation.neighbours.exact import Targets, merge, nearest
from ambient_sweep.evaluation.neighbours.flips import merge_flips, nearest_with_flips

__all__ = ["ApproximateIndex", "Targets", "merge", "merge_flips", "nearest", "nearest_with_flips"]
