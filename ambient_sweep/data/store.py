"""A prepared set of images in a folder: decoded once, memory-mapped by every worker.

store.json         what the store holds, and size and sha256 of every other file
images.bin         uint8 or float32 (little-endian) [count, C, H, W], in the order of the source
index.npy          int64 [count], ascending: an image's place in its source, the name under which its noise is drawn
train_index.npy    int64, the training images by their place in the source, in training order
heldout_index.npy  int64, the same of the held-out images (of which a store of noisy observations holds no more)
labels.npy, sigma.npy (own noise level, NaN: none), names.txt: where there are any

A store is written aside and renamed into place, so that one that is there is whole.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ambient_sweep import storage
from ambient_sweep.data.pixels import Array, Encoding
from ambient_sweep.errors import UserError

FORMAT = 1
INFO_FILE, IMAGES_FILE, NAMES_FILE, DUPLICATES_FILE = "store.json", "images.bin", "names.txt", "duplicates.json"
PREPARE_AGAIN = "prepare the store again"
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
    def names(self) -> list[str] | None:
        """[count], read when asked for; None in a store of observations. Raises UserError for a damaged file."""
        if NAMES_FILE not in self.info.files:
            return None
        file = self.path / NAMES_FILE
        try:
            names = [_name_of(line) for line in file.read_bytes().split(b"\n")[:-1]]
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}; {PREPARE_AGAIN}") from None
        if len(names) != self.info.count:
            raise UserError(f"{file}: damaged (it does not hold {self.info.count} lines); {PREPARE_AGAIN}")
        return names

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
    train_index = _read_array(path, "train_index.npy", info, np.int64, info.split.train_size)
    heldout_index = _read_array(path, "heldout_index.npy", info, np.int64, info.split.heldout_size)
    index = _read_array(path, "index.npy", info, np.int64, info.count)
    held = train_index if info.kind == "observed" else np.concatenate([train_index, heldout_index])
    if (np.diff(index) <= 0).any() or not np.isin(held, index).all() or len(np.unique(held)) != len(held):
        raise UserError(f"{path / INFO_FILE}: damaged (its split names images that the store lacks); {PREPARE_AGAIN}")
    return Store(
        path=path,
        info=info,
        images=np.memmap(path / IMAGES_FILE, _DTYPES[info.encoding], "r", shape=(info.count, *info.shape)),
        index=index,
        train_index=train_index,
        heldout_index=heldout_index,
        labels=_read_array(path, "labels.npy", info, np.int64, info.count) if "labels.npy" in info.files else None,
        sigma=_read_array(path, "sigma.npy", info, np.float32, info.count) if "sigma.npy" in info.files else None,
    )


def read_info(path: Path) -> StoreInfo:
    """What store.json in the folder `path` says. Raises UserError, naming the file, where it does not make sense."""
    file = path / INFO_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: is not a store (it holds no {INFO_FILE}); `ambient-sweep prepare` makes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    try:
        found = _Format.model_validate_json(text).format
        if found > FORMAT:
            raise UserError(f"{file}: has format {found}, this version reads {FORMAT}; use a newer version")
        info = StoreInfo.model_validate_json(text)
    except ValidationError:
        raise UserError(f"{file}: damaged; {PREPARE_AGAIN}") from None
    needed = {"index.npy", "train_index.npy", "heldout_index.npy", IMAGES_FILE}
    size = info.count * _DTYPES[info.encoding].itemsize * int(np.prod(info.shape))
    if not needed <= set(info.files) or any(Path(name).name != name for name in info.files):
        raise UserError(f"{file}: damaged (its list of files); {PREPARE_AGAIN}")
    if info.files[IMAGES_FILE].bytes != size or min(info.shape) < 1:
        raise UserError(f"{file}: damaged (its count and shape contradict the size of {IMAGES_FILE}); {PREPARE_AGAIN}")
    if not (info.kind == "observed") == (info.observed is not None) == (info.encoding == "signed"):
        raise UserError(f"{file}: damaged (its kind); {PREPARE_AGAIN}")
    return info


def made_alike(info: StoreInfo) -> str:
    """How to prepare another store of the same split, in words."""
    found, how = info.duplicates, "without --drop-duplicates"
    if found.get("dropped"):
        how = f"--drop-duplicates --near {found.get('near')}"
    return f"prepared with the same data.* keys and {how}"


def verify_store(path: Path) -> StoreInfo:
    """Reads every byte of the store. Raises UserError, naming the file, where a sha256 is not the one in store.json."""
    store = open_store(path)
    for name, file in store.info.files.items():
        if file_sha256(path / name) != file.sha256:
            raise UserError(f"{path / name}: damaged (its sha256 is not the one in {INFO_FILE}); {PREPARE_AGAIN}")
    return store.info


class _Format(BaseModel):
    format: int


def _check_size(file: Path, wanted: int) -> None:
    try:
        found = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; {PREPARE_AGAIN}") from None
    if found != wanted:
        what = "truncated" if found < wanted else "damaged"
        raise UserError(f"{file}: {what} ({found:,} bytes, {INFO_FILE} says {wanted:,}); {PREPARE_AGAIN}")


def _read_array(path: Path, name: str, info: StoreInfo, dtype: type[np.generic], count: int) -> NDArray[Any]:
    file = path / name
    if file_sha256(file) != info.files[name].sha256:
        raise UserError(f"{file}: damaged (its sha256 is not the one in {INFO_FILE}); {PREPARE_AGAIN}")
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{file}: damaged (not an array of numbers); {PREPARE_AGAIN}") from None
    if array.dtype != dtype or array.shape != (count,):
        raise UserError(
            f"{file}: damaged ({array.dtype} {list(array.shape)} instead of {count} numbers); {PREPARE_AGAIN}"
        )
    return np.asarray(array)


def name_line(name: str) -> bytes:
    """A name as a line of names.txt, with its end."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return escaped.encode("utf-8", "surrogateescape") + b"\n"


def _name_of(line: bytes) -> str:
    text = line.decode("utf-8", "surrogateescape")
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), text)


def file_sha256(file: Path) -> str:
    """The sha256 of a file's bytes. Raises UserError where it cannot be read."""
    try:
        return storage.sha256(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; {PREPARE_AGAIN}") from None
