"""Stages: what several trials have in common is trained and evaluated once (stage trees: Hippo, arXiv 2006.11972)."""
