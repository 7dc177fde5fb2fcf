"""Matrices of objective values, checked."""

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
