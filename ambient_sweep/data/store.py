"""A prepared set of images in a folder: decoded once, memory-mapped by every worker.

store.json         what the store holds, and size and sha256 of every other file
images.bin         uint8 or float32 (little-endian) [count, C, H, W], in the order of the source
index.npy          int64 [count], ascending: an image's place in its source, the name under which its noise is drawn
train_index.npy    int64, the training images by their place in the source, in training order
heldout_index.npy  int64, the same of the held-out images (of which a store of noisy observations holds no more)
labels.npy, sigma.npy (own noise level, NaN: none), names.txt: where there are any

A store is written aside and renamed into place, so that one that is there is whole.
"""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ambient_sweep.data.pixels import Array, Encoding
from ambient_sweep.errors import UserError
from ambient_sweep.storage import new_folder, sha256

FORMAT = 1
INFO_FILE, IMAGES_FILE, NAMES_FILE, DUPLICATES_FILE = "store.json", "images.bin", "names.txt", "duplicates.json"
_DTYPES: dict[Encoding, np.dtype[Any]] = {"uint8": np.dtype("u1"), "unit": np.dtype("<f4"), "signed": np.dtype("<f4")}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileInfo(_Record):
    bytes: int
    sha256: str


class SplitInfo(_Record):
    seed: int
    train_size: int
    heldout_size: int


class ObservedInfo(_Record):
    """The noise in a store of observations: y_b = x_0 + sigma eps."""

    sigma: float
    seed: int | None  # eps is keyed by it and the place in the source; None: from the operating system, known to nobody
    fingerprint: str  # of the observations themselves


class StoreInfo(_Record):
    """What store.json says."""

    format: int
    version: str  # of the package that wrote it
    kind: Literal["clean", "observed"]
    count: int
    shape: tuple[int, int, int]  # C, H, W
    encoding: Encoding
    classes: tuple[str, ...]
    split: SplitInfo
    content_sha256: str  # of the clean images of the whole source
    fingerprint: str  # of these and the split; the same in a clean store and in its noisy observations
    observed: ObservedInfo | None
    source: dict[str, Any]
    corrupt: dict[str, Any]
    duplicates: dict[str, Any]
    files: dict[str, FileInfo]


@dataclass(frozen=True)
class Store:
    """An opened store: its small arrays in memory, its images and names in memory-mapped files."""

    path: Path
    info: StoreInfo
    images: Array  # [count, C, H, W]
    index: NDArray[np.int64]
    train_index: NDArray[np.int64]
    heldout_index: NDArray[np.int64]
    labels: NDArray[np.int64] | None  # [count]
    sigma: NDArray[np.float32] | None  # [count]

    @cached_property
    def names(self) -> list[str]:
        """[count], read when asked for; "image 7" and the like in a store of observations, which holds no names."""
        if NAMES_FILE not in self.info.files:
            return [f"image {place}" for place in self.index.tolist()]
        lines = (self.path / NAMES_FILE).read_bytes().split(b"\n")[:-1]
        if len(lines) != self.info.count:
            raise damaged(self.path / NAMES_FILE, f"it does not hold {self.info.count} lines")
        return [_name_of(line) for line in lines]

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the store the images with these places in the source lie."""
        return np.searchsorted(self.index, index)


def open_store(path: Path) -> Store:
    """The store in a folder; sizes of all files and the sha256 of the small arrays are checked, no image is read.

    Raises UserError, naming the file, for what is missing, damaged, truncated or of a newer format.
    """
    info = read_info(path)
    for name, file in info.files.items():
        _check_size(path / name, file.bytes)

    def read(name: str, dtype: type[np.generic], count: int) -> NDArray[Any]:
        _check_sha256(path / name, info)
        try:
            array = np.load(path / name, allow_pickle=False)
        except (ValueError, EOFError):
            raise damaged(path / name, "not an array of numbers") from None
        if array.dtype != dtype or array.shape != (count,):
            raise damaged(path / name, f"{array.dtype} {list(array.shape)} instead of {count} numbers")
        return np.asarray(array)

    index = read("index.npy", np.int64, info.count)
    train_index = read("train_index.npy", np.int64, info.split.train_size)
    heldout_index = read("heldout_index.npy", np.int64, info.split.heldout_size)
    held = train_index if info.kind == "observed" else np.concatenate([train_index, heldout_index])
    if (np.diff(index) <= 0).any() or not np.isin(held, index).all() or len(np.unique(held)) != len(held):
        raise damaged(path / INFO_FILE, "its split names images that the store lacks")
    images = np.memmap(path / IMAGES_FILE, _DTYPES[info.encoding], "r", shape=(info.count, *info.shape))
    labels = read("labels.npy", np.int64, info.count) if "labels.npy" in info.files else None
    sigma = read("sigma.npy", np.float32, info.count) if "sigma.npy" in info.files else None
    return Store(path, info, images, index, train_index, heldout_index, labels, sigma)


def read_info(path: Path) -> StoreInfo:
    """What store.json in the folder `path` says. Raises UserError, naming the file, where it does not make sense."""
    file = path / INFO_FILE
    try:
        text = file.read_text(encoding="utf-8")
        found = _Format.model_validate_json(text).format
        if found > FORMAT:
            raise UserError(f"{file}: has format {found}, this version reads {FORMAT}; use a newer version")
        info = StoreInfo.model_validate_json(text)
    except FileNotFoundError:
        raise UserError(f"{path}: not a store (it holds no {INFO_FILE}); `ambient-sweep prepare` makes one") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValidationError, UnicodeDecodeError):
        raise damaged(file) from None
    needed = {"index.npy", "train_index.npy", "heldout_index.npy", IMAGES_FILE}
    if not needed <= set(info.files) or any(Path(name).name != name for name in info.files):
        raise damaged(file, "its list of files")
    size = info.count * _DTYPES[info.encoding].itemsize * int(np.prod(info.shape))
    if info.files[IMAGES_FILE].bytes != size or min(info.shape) < 1:
        raise damaged(file, f"its count and shape contradict the size of {IMAGES_FILE}")
    if not (info.kind == "observed") == (info.observed is not None) == (info.encoding == "signed"):
        raise damaged(file, "its kind")
    return info


def verify_store(path: Path) -> StoreInfo:
    """Reads every byte of the store. Raises UserError, naming the file, where a sha256 is not the one in store.json."""
    info = open_store(path).info
    for name in info.files:
        _check_sha256(path / name, info)
    return info


def made_alike(info: StoreInfo) -> str:
    """How to prepare another store of the same split, in words."""
    copies = info.duplicates
    how = f"--drop-duplicates --near {copies['near']}" if copies["dropped"] else "without --drop-duplicates"
    return f"prepared with the same data.* keys and {how}"


def damaged(file: Path, why: str = "") -> UserError:
    """The error to raise for a damaged file."""
    return UserError(f"{file}: damaged{f' ({why})' if why else ''}; prepare the store again")


def _check_size(file: Path, wanted: int) -> None:
    try:
        found = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; prepare the store again") from None
    if found != wanted:
        what = "truncated" if found < wanted else "too long"
        raise damaged(file, f"{what}: {found:,} bytes, {INFO_FILE} says {wanted:,}")


def _check_sha256(file: Path, info: StoreInfo) -> None:
    try:
        found = sha256(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    if found != info.files[file.name].sha256:
        raise damaged(file, f"its sha256 is not the one in {INFO_FILE}")


class _Format(BaseModel):
    format: int


# -- writing --------------------------------------------------------------------------------------------------------


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


def name_line(name: str) -> bytes:
    """A name as a line of names.txt, with its end."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return escaped.encode("utf-8", "surrogateescape") + b"\n"


def _name_of(line: bytes) -> str:
    text = line.decode("utf-8", "surrogateescape")
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), text)
