"""Networks, the denoiser that a config asks for, and its size."""

from ambient_sweep.models.build import Shape, build_model
from ambient_sweep.models.network import checkpoint_activations
from ambient_sweep.models.size import count_parameters, describe

__all__ = ["Shape", "build_model", "checkpoint_activations", "count_parameters", "describe"]
