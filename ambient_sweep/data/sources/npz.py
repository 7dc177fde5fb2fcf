"""Arrays inside .npy and .npz files: headers first, then in order and in parts; pickled objects are never loaded."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.errors import UserError

# What zipfile and numpy's reader of headers raise on damaged files
BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, NotImplementedError,
    RuntimeError, TypeError, KeyError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError,
)  # fmt: skip
MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Header:
    """What a .npy header declares."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    length: int  # of the header, in bytes

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def checked(self, where: str, size: int) -> "Header":
        """Raises UserError for pickled objects and for data that are not as long as declared."""
        if self.dtype.hasobject:
            raise UserError(
                f"{where}: holds pickled objects, which are never loaded, for they may run code; "
                "save one plain array: np.save(path, np.stack(images))"
            )
        if self.length + self.nbytes != size:
            raise UserError(f"{where}: is cut off or damaged; its header does not fit its {size} bytes")
        return self


def npy_header(path: Path) -> Header:
    """The header of a .npy file. Raises UserError."""
    try:
        with path.open("rb") as file:
            return _header(file).checked(str(path), path.stat().st_size)
    except BROKEN as error:
        raise UserError(f"{path}: cannot be read as a .npy file ({_line(error)})") from None


def npz_headers(path: Path) -> dict[str, Header]:
    """The headers of a .npz file's arrays by name; of those with pickled objects none. Raises UserError."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    with archive.open(info) as file:
                        headers[info.filename.removesuffix(".npy")] = (_header(file), info.file_size)
    except BROKEN as error:
        raise UserError(f"{path}: cannot be read as a .npz file ({_line(error)})") from None
    return {name: header.checked(f"{path}: {name}", size) for name, (header, size) in headers.items()}


def npz_array(path: Path, name: str) -> NDArray[Any]:
    """One array of a .npz file, whole. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except BROKEN as error:
        raise UserError(f"{path}: {name}: cannot be read ({_line(error)})") from None


def npz_parts(path: Path, name: str, header: Header, size: int) -> Iterator[NDArray[Any]]:
    """One array of a .npz file, `size` rows at a time, without holding more. Raises what BROKEN lists for damaged files.

    An array in Fortran's order cannot be had so and is held whole.
    """
    if header.fortran:
        with np.load(path, allow_pickle=False) as arrays:
            whole = arrays[name]
        yield from (whole[start : start + size] for start in range(0, len(whole), size))
        return
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        _exactly(file, header.length)
        row = header.nbytes // header.shape[0]
        for start in range(0, header.shape[0], size):
            count = min(size, header.shape[0] - start)
            yield np.frombuffer(_exactly(file, count * row), header.dtype).reshape(count, *header.shape[1:])


def _header(file: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return Header(shape, dtype, fortran, file.tell())


def _exactly(file: IO[bytes], count: int) -> bytes:
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    if count:
        raise EOFError("ends too early")
    return b"".join(parts)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
