"""Writing a store: aside, and then renamed into place."""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.names import name_line
from ambient_sweep.data.pixels import Array
from ambient_sweep.data.store import IMAGES_FILE, INFO_FILE, NAMES_FILE, FileInfo, StoreInfo
from ambient_sweep.errors import UserError
from ambient_sweep.storage import new_folder


@contextlib.contextmanager
def new_store(out: Path) -> Iterator["StoreWriter"]:
    """A writer of the store `out`, in a folder beside it that becomes `out` at the end, or is removed where that fails.

    Its name begins with a dot and ends in `.tmp`. Raises UserError where `out` is there already or cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: is there already; remove it or give another place")
    with _written(out), new_folder(out) as temporary:
        yield StoreWriter(out, temporary)


@contextlib.contextmanager
def _written(out: Path) -> Iterator[None]:
    """Turns what the disk refuses, such as a full one, into a UserError that names `out`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}; nothing is left of it") from None


class StoreWriter:
    """Writes the files of a store, and knows their sizes and hashes. Raises UserError where the disk refuses."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out, self.folder = out, folder
        self.files: dict[str, FileInfo] = {}
        self._images: _File | None = None

    def check_space(self, needed: int) -> None:
        """Raises UserError where fewer than `needed` bytes are free."""
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(f"{self.out}: needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free there")

    def images(self, images: Array) -> None:
        """Appends images [n, C, H, W]."""
        with _written(self.out):
            self._images = self._images or _File(self.folder / IMAGES_FILE)
            self._images.write(np.ascontiguousarray(_little_endian(images)).data)

    def end_of_images(self) -> FileInfo:
        """What images.bin came to."""
        with _written(self.out):
            self._images = self._images or _File(self.folder / IMAGES_FILE)
            self.files[IMAGES_FILE] = self._images.close()
        return self.files[IMAGES_FILE]

    def array(self, name: str, values: NDArray[Any]) -> None:
        """Writes `name`.npy."""
        buffer = io.BytesIO()
        np.save(buffer, _little_endian(values), allow_pickle=False)
        self._file(f"{name}.npy", [buffer.getvalue()])

    def names(self, names: Iterable[str]) -> None:
        self._file(NAMES_FILE, (name_line(name) for name in names))

    def json(self, name: str, document: Any) -> None:
        self._file(name, [(json.dumps(document, indent=1) + "\n").encode()])

    def info(self, info: StoreInfo) -> None:
        """Writes store.json, which comes last."""
        self._file(INFO_FILE, [(info.model_dump_json(indent=1) + "\n").encode()])

    def _file(self, name: str, pieces: Iterable[bytes]) -> None:
        with _written(self.out):
            file = _File(self.folder / name)
            for piece in pieces:
                file.write(piece)
            self.files[name] = file.close()


class _File:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("xb")
        self._digest, self._bytes = hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self._bytes += len(data) if isinstance(data, bytes) else data.nbytes

    def close(self) -> FileInfo:
        """Ends the file once it is on the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return FileInfo(bytes=self._bytes, sha256=self._digest.hexdigest())


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
