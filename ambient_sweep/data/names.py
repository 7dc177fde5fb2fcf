"""The names of a store's images in a text file, one a line, read as they are asked for."""

import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from ambient_sweep.errors import UserError

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def name_line(name: str) -> bytes:
    """A name as a line of the file, with its end."""
    escaped = "".join(_ESCAPES.get(letter, letter) for letter in name)
    return escaped.encode("utf-8", "surrogateescape") + b"\n"


class NamesFile(Sequence[str]):
    """The lines of `file`; they stay on the disk. Raises UserError where they are not `count` lines."""

    def __init__(self, file: Path, count: int) -> None:
        try:
            with file.open("rb") as stream:
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read: {error}; prepare the store again") from None
        ends = np.flatnonzero(np.frombuffer(self._bytes, dtype=np.uint8) == ord("\n"))
        if len(ends) != count or ends[-1] != len(self._bytes) - 1:
            raise UserError(f"{file}: damaged (it does not hold {count} lines); prepare the store again")
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        line = self._bytes[self._ends[row - 1] + 1 if row else 0 : self._ends[row]]
        text = line.decode("utf-8", "surrogateescape")
        return re.sub(r"\\(.)", lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), text)
