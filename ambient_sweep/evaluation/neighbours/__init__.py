"""Nearest neighbours in L2: exact on one device, exact with mirror images, approximate for sets past ten million."""

from ambient_sweep.evaluation.neighbours.exact import Targets, merge, nearest
from ambient_sweep.evaluation.neighbours.flips import nearest_with_flips

__all__ = ["Targets", "merge", "nearest", "nearest_with_flips"]
