"""A prepared set of images in a folder: decoded once, memory-mapped by every worker.

store.json         what the store holds, and size and sha256 of every other file
images.bin         uint8 or float32 (little-endian) [count, C, H, W], in the order of the source
index.npy          int64 [count], ascending: an image's place in its source, the name under which its noise is drawn
train_index.npy    int64, the training images by their place in the source, in training order
heldout_index.npy  int64, the same of the held-out images (of which a store of noisy observations holds no more)
labels.npy, sigma.npy (own noise level, NaN: none), names.txt: where there are any

A store is written aside and renamed into place, so that one that is there is whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ambient_sweep import storage
from ambient_sweep.data.names import NamesFile
from ambient_sweep.data.pixels import Array, Encoding
from ambient_sweep.errors import UserError

FORMAT = 1
INFO_FILE, IMAGES_FILE, NAMES_FILE, DUPLICATES_FILE = "store.json", "images.bin", "names.txt", "duplicates.json"
AGAIN = "prepare the store again"


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
    names: Sequence[str] | None  # [count]

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
    optional = {name: path / f"{name}.npy" if f"{name}.npy" in info.files else None for name in ("labels", "sigma")}
    count, dtype = info.count, np.uint8 if info.encoding == "uint8" else np.dtype("<f4")
    index = _read_array(path / "index.npy", info, np.int64, count)
    train_index = _read_array(path / "train_index.npy", info, np.int64, info.split.train_size)
    heldout_index = _read_array(path / "heldout_index.npy", info, np.int64, info.split.heldout_size)
    store = Store(
        path=path,
        info=info,
        images=np.memmap(path / IMAGES_FILE, dtype, "r", shape=(count, *info.shape)),
        index=index,
        train_index=train_index,
        heldout_index=heldout_index,
        labels=None if optional["labels"] is None else _read_array(optional["labels"], info, np.int64, count),
        sigma=None if optional["sigma"] is None else _read_array(optional["sigma"], info, np.float32, count),
        names=NamesFile(path / NAMES_FILE, count) if NAMES_FILE in info.files else None,
    )
    held = train_index if info.kind == "observed" else np.concatenate([train_index, heldout_index])
    if (np.diff(index) <= 0).any() or not np.isin(held, index).all() or len(np.unique(held)) != len(held):
        raise UserError(f"{path / INFO_FILE}: damaged (its split names images that the store does not hold); {AGAIN}")
    return store


def read_info(path: Path) -> StoreInfo:
    """What store.json in the folder `path` says. Raises UserError, naming the file, where it does not make sense."""
    file = path / INFO_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: is no store (it holds no {INFO_FILE}); `ambient-sweep prepare` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    try:
        found = _Format.model_validate_json(text).format
        if found > FORMAT:
            raise UserError(f"{file}: has format {found}, this version reads {FORMAT}; use a newer version")
        info = StoreInfo.model_validate_json(text)
    except ValidationError:
        raise UserError(f"{file}: damaged; {AGAIN}") from None
    itemsize = 1 if info.encoding == "uint8" else 4
    needed = {"index.npy", "train_index.npy", "heldout_index.npy", IMAGES_FILE}
    if not needed <= set(info.files) or any(Path(name).name != name for name in info.files):
        raise UserError(f"{file}: damaged (its list of files); {AGAIN}")
    if info.files[IMAGES_FILE].bytes != info.count * itemsize * int(np.prod(info.shape)) or min(info.shape) < 1:
        raise UserError(
            f"{file}: damaged (its count and shape of images contradict the size of {IMAGES_FILE}); {AGAIN}"
        )
    if (info.kind == "observed") != (info.observed is not None) or (info.kind == "observed") != (
        info.encoding == "signed"
    ):
        raise UserError(f"{file}: damaged (its kind); {AGAIN}")
    return info


def made_alike(info: StoreInfo) -> str:
    """How to prepare another store of the same split, in words."""
    found, how = info.duplicates, "without --drop-duplicates"
    if found.get("dropped"):
        how = f"--drop-duplicates --near {found.get('near')}{' --flips' if found.get('flips') else ''}"
    return f"prepared with the same data.* keys and {how}"


def verify_store(path: Path) -> StoreInfo:
    """Reads every byte of the store. Raises UserError, naming the file, where a sha256 is not the one in store.json."""
    store = open_store(path)
    for name, file in store.info.files.items():
        if file_sha256(path / name) != file.sha256:
            raise UserError(f"{path / name}: damaged (its sha256 is not the one in {INFO_FILE}); {AGAIN}")
    return store.info


class _Format(BaseModel):
    format: int


def _check_size(file: Path, wanted: int) -> None:
    try:
        found = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; {AGAIN}") from None
    if found != wanted:
        what = "truncated" if found < wanted else "damaged"
        raise UserError(f"{file}: {what} ({found:,} bytes, {INFO_FILE} says {wanted:,}); {AGAIN}")


def _read_array(file: Path, info: StoreInfo, dtype: type[np.generic], count: int) -> NDArray[Any]:
    if file_sha256(file) != info.files[file.name].sha256:
        raise UserError(f"{file}: damaged (its sha256 is not the one in {INFO_FILE}); {AGAIN}")
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{file}: damaged (no array of numbers); {AGAIN}") from None
    if array.dtype != dtype or array.shape != (count,):
        raise UserError(f"{file}: damaged ({array.dtype} {list(array.shape)} instead of {count} numbers); {AGAIN}")
    return np.asarray(array)


def file_sha256(file: Path) -> str:
    """The sha256 of a file's bytes. Raises UserError where it cannot be read."""
    try:
        return storage.sha256(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; {AGAIN}") from None
