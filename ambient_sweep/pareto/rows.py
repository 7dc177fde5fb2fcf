"""Matrices of objective values: checked, and sorted without duplicates."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def as_matrix(values: ArrayLike) -> Floats:
    """`values` as float64 [N, M]. Raises ValueError if it is no matrix."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"values: expected a matrix, a row per point and a column per objective, not {matrix.shape}")
    return matrix


def sorted_unique(matrix: Floats) -> tuple[Floats, Ints]:
    """The distinct rows, sorted by their columns from the first, and where each row of `matrix` [N, M] stands among
    them: [K, M], int [N]. As `numpy.unique(axis=0)`, which is many times slower."""
    order = np.lexsort(matrix.T[::-1])
    ordered = matrix[order]
    new = np.ones(len(ordered), dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    inverse = np.empty(len(ordered), dtype=np.int64)
    inverse[order] = np.cumsum(new) - 1
    return ordered[new], inverse
