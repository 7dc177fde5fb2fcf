"""Memorization that samples show: copies in pixels, similarity in features."""
