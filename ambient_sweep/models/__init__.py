"""Networks, the denoiser that a config asks for, and its size."""

from ambient_sweep.models.build import Shape, build_model, count_parameters, describe, parameters
from ambient_sweep.models.network import checkpoint_activations

__all__ = ["Shape", "build_model", "checkpoint_activations", "count_parameters", "describe", "parameters"]
