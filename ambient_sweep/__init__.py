"""Ambient-diffusion hyperparameter sweeps: the price of not memorizing, measured."""

__version__ = "0.7.0.dev0"
