"""Writing a file so that no reader ever sees half of it."""

from ambient_sweep.writing import write_atomic

__all__ = ["write_atomic"]
