"""Planted fronts: recipes with known true values, measured as a confirmed sweep measures them."""

import numpy as np

SHAPES = ("digits", "convex", "concave", "line", "cloud", "corner", "pieces", "levels")


def planted(rng: np.random.Generator, shape: str, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True values, each recipe's noise between seeds, and what is known of that noise but for a factor; each [n, 2]."""
    t = rng.uniform(0, 1, n)
    if shape == "digits":  # a trade-off with a tail of worse recipes, noise that grows with the values
        worse = rng.exponential(0.4, n)
        truth = np.stack([28 + 30 * (1 - t) ** 1.5 + 15 * worse, 0.4 * t**1.5 + 0.1 * worse], axis=1)
        unit = np.stack([0.05 * truth[:, 0], 0.01 + 0.06 * truth[:, 1]], axis=1)
        known = np.stack([0.025 * truth[:, 0], np.sqrt(np.clip(truth[:, 1] + 0.01, 1e-3, 1) / 500)], axis=1)
    else:
        level = rng.integers(0, 5, n) / 4
        pieces = 1 - np.sqrt(t) - t * np.sin(10 * np.pi * t)  # ZDT3
        truth = {
            "convex": np.stack([t**2, (1 - t) ** 2], axis=1) + rng.exponential(0.2, (n, 2)),
            "concave": np.stack([np.sin(t * np.pi / 2), np.cos(t * np.pi / 2)], axis=1) + rng.exponential(0.2, (n, 2)),
            "line": np.stack([t, 1 - t], axis=1) + rng.gamma(2, 0.1, (n, 1)),
            "cloud": rng.normal(0, 0.35, (n, 2)),
            "corner": np.stack([t**6, (1 - t) ** 6], axis=1) + rng.exponential(0.1, (n, 2)),
            "pieces": np.stack([t, pieces], axis=1) + rng.exponential(0.15, (n, 2)),
            "levels": np.stack([(1 - level) ** 1.5, level**1.5], axis=1) + np.abs(rng.normal(0, 0.1, (n, 2))),
        }[shape]
        unit = known = np.full((n, 2), 0.08)
    return truth, unit * np.exp(rng.normal(0, 0.25, (n, 2))), known
