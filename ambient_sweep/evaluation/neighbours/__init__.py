"""Exact nearest neighbours in L2, with and without mirror images."""

from ambient_sweep.evaluation.neighbours.exact import Targets, merge_flips, nearest

__all__ = ["Targets", "merge_flips", "nearest"]
