"""Writes the files of a store."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.pixels import Array
from ambient_sweep.data.store import IMAGES_FILE, INFO_FILE, NAMES_FILE, FileInfo, StoreInfo, name_line
from ambient_sweep.errors import UserError
from ambient_sweep.storage import new_folder


@contextlib.contextmanager
def new_store(out: Path) -> Iterator["StoreWriter"]:
    """A writer of the store `out`, in a folder beside it that becomes `out` at the end, or is removed where that fails.

    Raises UserError where `out` exists or cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists; remove it or give another place")
    try:
        with new_folder(out) as temporary, (temporary / IMAGES_FILE).open("xb") as images:
            yield StoreWriter(temporary, images)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}; nothing is left of it") from None


class StoreWriter:
    """Writes the files of a store, and notes their sizes and hashes."""

    def __init__(self, folder: Path, images: io.BufferedWriter) -> None:
        self.folder, self.files = folder, dict[str, FileInfo]()
        self._images, self._digest = images, hashlib.sha256()

    def images(self, images: Array) -> None:
        """Appends images [n, C, H, W]."""
        data = np.ascontiguousarray(images).data
        self._images.write(data)
        self._digest.update(data)

    def end_of_images(self) -> FileInfo:
        """Closes images.bin. Returns its size and hash."""
        self.files[IMAGES_FILE] = FileInfo(bytes=self._images.tell(), sha256=self._digest.hexdigest())
        self._images.close()
        return self.files[IMAGES_FILE]

    def array(self, name: str, values: NDArray[Any]) -> None:
        """Writes `name`.npy."""
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        self._file(f"{name}.npy", buffer.getvalue())

    def names(self, names: Iterable[str]) -> None:
        self._file(NAMES_FILE, b"".join(map(name_line, names)))

    def json(self, name: str, document: Any) -> None:
        self._file(name, (json.dumps(document, indent=1) + "\n").encode())

    def info(self, info: StoreInfo) -> None:
        """Writes store.json, which comes last."""
        self._file(INFO_FILE, (info.model_dump_json(indent=1) + "\n").encode())

    def _file(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)
        self.files[name] = FileInfo(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
