"""Fidelity and memorization of generated images, each value with its interval and its number of samples."""
