"""Fidelity and memorization of generated images, each value with its interval and its number of samples.

The names below are imported when they are first used: `ambient_sweep.evaluation.measure` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambient_sweep.evaluation.evaluator import evaluate
    from ambient_sweep.evaluation.measure import Measure
    from ambient_sweep.evaluation.neighbours import nearest
    from ambient_sweep.evaluation.reference import Reference, reference_key

__all__ = ["Measure", "Reference", "evaluate", "nearest", "reference_key"]

_HOMES = {
    "Measure": "measure",
    "Reference": "reference",
    "evaluate": "evaluator",
    "nearest": "neighbours",
    "reference_key": "reference",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
