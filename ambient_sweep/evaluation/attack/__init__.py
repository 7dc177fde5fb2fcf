"""Memorization of the model itself, beside its samples: restoring damaged training images, and denoising them too well."""

from ambient_sweep.evaluation.attack.denoising import denoising_gap
from ambient_sweep.evaluation.attack.extraction import Attack, Result, attack, worst_cases
from ambient_sweep.evaluation.attack.subjects import Subjects

__all__ = ["Attack", "Result", "Subjects", "attack", "denoising_gap", "worst_cases"]
