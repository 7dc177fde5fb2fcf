"""Networks, the denoiser that a config asks for, and its size."""

from ambient_sweep.models.build import Shape, base_of, build_model, count_parameters, describe, parameters, scaling_of
from ambient_sweep.models.network import checkpoint_activations

__all__ = [
    "Shape",
    "base_of",
    "build_model",
    "checkpoint_activations",
    "count_parameters",
    "describe",
    "parameters",
    "scaling_of",
]
