"""Features of real images, computed once per (images, encoder) and kept: they are what a measurement waits for."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ambient_sweep.errors import UserError
from ambient_sweep.storage import new_file, sha256, write_atomic

Features = NDArray[np.float32]  # [N, D]; in memory, or mapped from a file


def cached_features(
    folder: Path | None, fingerprint: str, identity: str, count: int, batches: Callable[[], Iterator[Tensor]]
) -> Features:
    """The features [count, D] that `batches` yields in order, from `folder` where they have been computed before.

    fingerprint: of the images. identity: of the encoder, its weights and its resize. A file that is not the one written, by
    its hash, is computed anew. With folder=None nothing is kept. Raises UserError where `folder` cannot be written.
    """
    if folder is None:
        return np.concatenate([batch.cpu().numpy() for batch in batches()])
    key = hashlib.sha256(f"{fingerprint} {identity} {count}".encode()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    found = _read(path, count)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # features tell of private images
        _write(path, count, batches())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); free space there, or use --no-cache"
        ) from None
    written = _read(path, count)
    assert written is not None
    return written


def _read(path: Path, count: int) -> Features | None:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        wanted = _hash_file(path).read_text()
    except (OSError, ValueError, EOFError):
        return None
    whole = found.ndim == 2 and len(found) == count and found.dtype == np.float32
    return found if whole and wanted == sha256(path) else None


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _write(path: Path, count: int, batches: Iterator[Tensor]) -> None:
    """Writes the features as they come; `path` appears once all are there."""
    with new_file(path) as temporary:
        first = next(batches).cpu()
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(count, first.shape[1]))
        array[: len(first)] = first.numpy()
        start = len(first)
        for batch in batches:
            array[start : start + len(batch)] = batch.cpu().numpy()
            start += len(batch)
        if start != count:
            raise ValueError(f"{start} features of {count} images")
        array.flush()
        write_atomic(_hash_file(path), sha256(temporary).encode())


class Mapped:
    """Rows of an array as tensors, read when they are asked for: targets of `neighbours.nearest`.

    shape: of a row, where it is not the array's own. rows: those that count, all by default. What lies in a file travels to
    other processes as its path and is opened there.
    """

    def __init__(
        self, array: NDArray[np.float32], shape: tuple[int, ...] | None = None, rows: range | None = None
    ) -> None:
        self._array = array
        self._shape = array.shape[1:] if shape is None else shape
        self._rows = range(len(array)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> Tensor:
        part = self._rows[rows]
        return torch.from_numpy(np.array(self._array[part.start : part.stop])).view(-1, *self._shape)

    def shards(self, count: int) -> "list[Mapped]":
        """The rows in `count` parts or fewer, of nearly equal length."""
        size = -(-len(self) // max(1, count))
        return [Mapped(self._array, self._shape, self._rows[i : i + size]) for i in range(0, len(self), size)]

    def __reduce__(self) -> tuple[Any, ...]:
        path = getattr(self._array, "filename", None)
        if path is None:
            part = self._array[self._rows.start : self._rows.stop]
            return Mapped, (part, self._shape)
        return _reopened, (str(path), self._shape, self._rows)


def _reopened(path: str, shape: tuple[int, ...], rows: range) -> Mapped:
    return Mapped(np.load(path, mmap_mode="r", allow_pickle=False), shape, rows)
