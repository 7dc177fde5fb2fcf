"""Fidelity and memorization of generated images, each value with its interval and its number of samples.

The names below are imported when they are first used: `ambient_sweep.evaluation.measure` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambient_sweep.evaluation.evaluator import evaluate
    from ambient_sweep.evaluation.measure import Measure
    from ambient_sweep.evaluation.reference import Reference

__all__ = ["Measure", "Reference", "evaluate"]

_MODULES = {"Measure": "measure", "Reference": "reference", "evaluate": "evaluator"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
