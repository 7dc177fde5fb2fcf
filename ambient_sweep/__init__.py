"""Ambient-diffusion hyperparameter sweeps: the price of not memorizing, measured."""

__version__ = "0.6.0"
