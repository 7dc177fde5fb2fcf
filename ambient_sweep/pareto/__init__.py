"""Pareto dominance between points with two objectives, both minimised. Pure numpy.

A point dominates another if it is nowhere larger and somewhere smaller. Points with a NaN or an infinity dominate
nothing, are never on the front, rank last and enclose no volume.
"""

from ambient_sweep.pareto.dominance import nondominated_rank, pareto_mask
from ambient_sweep.pareto.front_shape import contributions, crowding_distance, hypervolume, scale

__all__ = [
    "contributions",
    "crowding_distance",
    "hypervolume",
    "nondominated_rank",
    "pareto_mask",
    "scale",
]
