"""Matrices of objective values: checked, sorted without duplicates, and growing at their end."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

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


class Column:
    """A numpy array that grows at its end, entry by entry; `shape` is that of an entry."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._room = np.empty((16, *shape), dtype=dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def array(self) -> NDArray[Any]:
        """What is there now, to read and to write; not a copy."""
        return self._room[: self._count]

    def append(self, entry: ArrayLike) -> None:
        """One more entry."""
        if self._count == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._count] = entry
        self._count += 1
