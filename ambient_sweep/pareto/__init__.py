"""Pareto dominance among rows of objective values; every objective is minimised. Pure numpy.

A row dominates another if it is nowhere larger and somewhere smaller. Rows with a NaN or an infinity are no answers:
they dominate nothing, are never on the front, rank last and enclose no volume.
"""

from ambient_sweep.pareto.dominance import nondominated_rank, pareto_mask
from ambient_sweep.pareto.order import places
from ambient_sweep.pareto.ranking import Ranking
from ambient_sweep.pareto.shape import attainment, knee, knee_distance, scale
from ambient_sweep.pareto.spread import crowding_distance, epsilon_net_place
from ambient_sweep.pareto.volume import contributions, hypervolume, hypervolume_history

__all__ = [
    "Ranking",
    "attainment",
    "contributions",
    "crowding_distance",
    "epsilon_net_place",
    "hypervolume",
    "hypervolume_history",
    "knee",
    "knee_distance",
    "nondominated_rank",
    "pareto_mask",
    "places",
    "scale",
]
