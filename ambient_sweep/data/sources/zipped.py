"""Images from a zip file, read in place."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.decode import MAX_BYTES, CorruptImage, Pixels, decode, is_deep
from ambient_sweep.data.sources.source import Block, Form, read_blocks, source_path
from ambient_sweep.data.sources.tree import check_names, is_deep_name, is_image, tree_labels, tree_levels
from ambient_sweep.errors import UserError

_LOCAL_HEADER = 30  # bytes before the entry's name
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flag bits: traditional, strong, masked directory
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


@dataclass(frozen=True)
class ZipSource:
    """The images of a zip file, in the order of their names."""

    path: Path
    names: list[str]
    entries: NDArray[np.int64]  # [N, 5]: place of the local header, packed size, size, CRC-32, method
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    sigma: NDArray[np.float32] | None
    form: Form

    @property
    def depth8(self) -> bool:
        return self.form.depth8

    def __len__(self) -> int:
        return len(self.names)

    def blocks(self, size: int) -> Iterator[Block]:
        with self.path.open("rb") as file:
            handle = file.fileno()

            def read(row: int) -> Pixels:
                return decode(read_entry(handle, self.entries[row]), self.form.size, self.form.channels)

            yield from read_blocks(self.form, len(self), size, read)


def open_zip(config: DataConfig) -> ZipSource:
    """The zip file `data.path`; labels, noise levels and depth as for a folder. Raises UserError.

    A single folder that holds everything is taken for the root of labels and of dataset.json and levels.csv.
    """
    path = source_path(config)
    directory = _directory(path, str(config.path))
    names = sorted(name for name in directory if is_image(name))
    check_names(names, f"data.path: {config.path}")
    for name in names:
        _check(directory[name], f"{config.path}: {name}")
    root = _common_folder(names)
    with path.open("rb") as file:
        handle = file.fileno()

        def read(name: str) -> str | None:
            info = directory.get(root + name)
            if info is None:
                return None
            _check(info, f"{config.path}: {root}{name}")
            try:
                return read_entry(handle, _place(info)).decode("utf-8-sig")
            except (CorruptImage, UnicodeDecodeError) as error:
                raise UserError(f"{config.path}: {root}{name}: cannot be read ({error})") from None

        inner = [name[len(root) :] for name in names]
        labels, classes = tree_labels(inner, read, str(config.path))
        sigma = tree_levels(inner, read, str(config.path), config.sigma_column)
        entries = np.array([_place(directory[name]) for name in names], dtype=np.int64)
        deep = any(_is_deep(handle, entries[row]) for row, name in enumerate(names) if is_deep_name(name))
    return ZipSource(path, names, entries, labels, classes, sigma, Form(config.image_size, config.channels, not deep))


def read_entry(handle: int, entry: NDArray[np.int64], most: int | None = None) -> bytes:
    """The content of an entry, or its first `most` bytes (unchecked); safe to call from several threads at once.

    (Python's ZipFile is not, and one for each thread would hold the directory of a million files again.)
    Raises CorruptImage.
    """
    place, packed, size, checksum, method = (int(value) for value in entry)
    if max(packed, size) > MAX_BYTES:
        raise CorruptImage(f"declares {max(packed, size)} bytes, more than {MAX_BYTES}")
    try:
        header = _bytes_at(handle, place, _LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
            raise CorruptImage("the zip file has no entry where its directory says")
        begin = place + _LOCAL_HEADER + sum(struct.unpack("<HH", header[26:30]))
        raw = _bytes_at(handle, begin, packed if most is None else min(packed, most + 1024))
        unpacked = raw if method == zipfile.ZIP_STORED else zlib.decompressobj(-15).decompress(raw, (most or size) + 1)
    except (OSError, OverflowError, zlib.error) as error:
        raise CorruptImage(f"cannot be unpacked ({error})") from None
    if most is not None:
        return unpacked[:most]
    if len(unpacked) != size or zlib.crc32(unpacked) != checksum:
        raise CorruptImage("its size or checksum in the zip file is wrong")
    return unpacked


def _bytes_at(handle: int, place: int, count: int) -> bytes:
    """`count` bytes from `place` on; fewer at the end of the file."""
    parts = []
    while count > 0 and (part := os.pread(handle, count, place)):
        parts.append(part)
        place, count = place + len(part), count - len(part)
    return b"".join(parts)


def _directory(path: Path, place: str) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name; of entries of one name the last, which is what unpacking leaves."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = ((info.filename.replace("\\", "/").removeprefix("./"), info) for info in archive.infolist())
            return {name: info for name, info in names if name and not name.endswith("/")}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise UserError(f"data.path: {place} cannot be read as a zip file ({error})") from None


def _check(info: zipfile.ZipInfo, where: str) -> None:
    if not all(0 <= number < 2**63 for number in (info.header_offset, info.compress_size, info.file_size)):
        raise UserError(f"{where}: the directory of the zip file is damaged; pack it anew")
    if info.flag_bits & _ENCRYPTED:
        raise UserError(f"{where}: is encrypted; unpack the zip file and use data.source=folder")
    if info.compress_type not in _METHODS:
        raise UserError(
            f"{where}: is packed by method {info.compress_type}; pack the zip file anew, {' or '.join(_METHODS.values())}"
        )


def _place(info: zipfile.ZipInfo) -> NDArray[np.int64]:
    """A row of `ZipSource.entries`."""
    return np.array([info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type], np.int64)


def _common_folder(names: list[str]) -> str:
    """ "folder/" where all names begin so, else ""."""
    first = names[0].split("/", 1)[0] + "/"
    return first if all(name.startswith(first) for name in names) else ""


def _is_deep(handle: int, entry: NDArray[np.int64]) -> bool:
    try:
        head = read_entry(handle, entry, most=32)
        return is_deep(BytesIO(head if head.startswith(b"\x89PNG") else read_entry(handle, entry)))
    except CorruptImage:
        return False  # counted when it is read
