"""Matrices of objective values: checked, and sorted without duplicates."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def as_matrix(values: ArrayLike, *, batched: bool = False) -> tuple[Floats, Mask]:
    """`values` as float64 [N, 2], or [..., N, 2] if `batched`, and which rows are finite. Raises ValueError otherwise."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape[-1:] != (2,) or matrix.ndim < 2 or (matrix.ndim > 2 and not batched):
        raise ValueError(f"values: expected [N, 2], a row per point, not {matrix.shape}")
    return matrix, np.asarray(np.isfinite(matrix).all(axis=-1))


def sorted_unique(rows: Floats) -> tuple[Floats, Ints]:
    """The distinct rows [K, 2] in lexicographic order, and the position of each row of `rows` [N, 2] among them [N].

    Same as `numpy.unique(axis=0)`, and many times faster.
    """
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    new = np.ones(len(ordered), dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    inverse = np.empty(len(ordered), dtype=np.int64)
    inverse[order] = np.cumsum(new) - 1
    return ordered[new], inverse
