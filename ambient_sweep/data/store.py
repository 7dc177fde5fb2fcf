"""A prepared set of images in a folder: decoded once, memory-mapped by every worker.

store.json         what the store holds, and size and sha256 of every other file
images.bin         uint8 or float32 (little-endian) [count, C, H, W], in the order of the source
index.npy          int64 [count], ascending: an image's place in its source, the name under which its noise is drawn
train_index.npy    int64, the training images by their place in the source, in training order
heldout_index.npy  int64, the same of the held-out images (of which a store of noisy observations holds no more)
labels.npy, sigma.npy (own noise level, NaN: none), names.json, text.json (captions, null: none): where there are any

A store of latents holds these in place of pixels, as `ambient_sweep.latent.prepare` writes it.

A store is written aside and renamed into place, so that one that is there is whole.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from ambient_sweep.data.pixels import Array, Encoding, Pixels
from ambient_sweep.errors import UserError
from ambient_sweep.storage import new_folder, sha256

INFO_FILE, IMAGES_FILE, DUPLICATES_FILE = "store.json", "images.bin", "duplicates.json"
NAMES_FILE, TEXT_FILE, EMBEDDINGS_FILE = "names.json", "text.json", "embeddings.safetensors"
_DTYPES: dict[Encoding, np.dtype[Any]] = {"uint8": np.dtype("u1"), "unit": np.dtype("<f4"), "signed": np.dtype("<f4")}


class FileInfo(BaseModel, frozen=True, extra="forbid"):
    bytes: int
    sha256: str


class SplitInfo(BaseModel, frozen=True, extra="forbid"):
    seed: int
    train_size: int
    heldout_size: int


class ObservedInfo(BaseModel, frozen=True, extra="ignore"):  # a secret draw of an older version cannot be made again
    """The noise in a store of observations: y_b = x_0 + sigma eps, with eps from the operating system, known to nobody."""

    sigma: float  # the lowest above 0, where each image has its own
    elsewhere: bool = False  # whether the images arrived with their noise; sigma.npy then holds the level of each
    fingerprint: str  # of the observations themselves


class LatentInfo(BaseModel, frozen=True, extra="forbid"):
    """Where latents come from. Captions are their classes; embeddings.safetensors holds them as text encoders give them."""

    pixels: str  # fingerprint of the store of their images
    base: str  # `Base.key` and `Base.vae_key` of the base that they are for
    vae: str
    factor: int  # pixels per latent pixel, along a side


class StoreInfo(BaseModel, frozen=True, extra="forbid"):
    """What store.json says."""

    format: Literal[1] = 1
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
    latent: LatentInfo | None = None
    source: dict[str, Any]
    corrupt: dict[str, Any]
    passed: dict[str, Any] = {}  # files that are not read, besides the corrupt ones
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

    @property
    def pixels(self) -> Pixels:
        """All its images."""
        return Pixels(self.images, self.info.encoding)

    @cached_property
    def names(self) -> list[str]:
        """[count], read when asked for; "image 7" and the like in a store of observations, which holds no names."""
        if NAMES_FILE not in self.info.files:
            return [f"image {place}" for place in self.index.tolist()]
        return self._list(NAMES_FILE)

    def text(self) -> NDArray[Any]:
        """The captions of a store that has TEXT_FILE, [count], None where an image has none."""
        return np.array(self._list(TEXT_FILE), dtype=object)

    def _list(self, name: str) -> list[Any]:
        _check(self.path / name, self.info.files[name], content=True)
        values: list[Any] = json.loads((self.path / name).read_bytes())
        return values

    def name(self, place: int) -> str:
        """What to call the image at this place in the source."""
        return self.names[int(self.rows(np.array([place]))[0])]

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the store the images with these places in the source lie."""
        return np.searchsorted(self.index, index)


def open_store(path: Path) -> Store:
    """The store in a folder; sizes of all files and the sha256 of the small arrays are checked, no image is read.

    Raises UserError, naming the file, for what is missing, damaged or truncated.
    """
    info = read_info(path)
    for name, file in info.files.items():
        _check(path / name, file, content=name.endswith(".npy"))

    def read(name: str) -> NDArray[Any]:
        return np.asarray(np.load(path / f"{name}.npy", allow_pickle=False))

    try:
        index, train_index, heldout_index = map(read, ("index", "train_index", "heldout_index"))
        labels, sigma = (read(name) if f"{name}.npy" in info.files else None for name in ("labels", "sigma"))
        images = np.memmap(path / IMAGES_FILE, _DTYPES[info.encoding], "r", shape=(info.count, *info.shape))
        if images.nbytes != info.files[IMAGES_FILE].bytes:
            raise ValueError(f"{IMAGES_FILE} is larger")
        return Store(path, info, images, index, train_index, heldout_index, labels, sigma)
    except (KeyError, ValueError, OSError) as error:
        raise _damaged(path / INFO_FILE, f"its count, shape or files are wrong: {error}") from None


def read_info(path: Path) -> StoreInfo:
    """What store.json in the folder `path` says. Raises UserError, naming the file, where it does not make sense."""
    file = path / INFO_FILE
    try:
        return StoreInfo.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: not a store (it holds no {INFO_FILE}); `ambient-sweep prepare` makes one") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise _damaged(file, f"or of another version{': ' + where if where else ''}") from None


def store_keys(path: Path, info: StoreInfo) -> dict[str, Any]:
    """The data.* keys that read the store at `path`."""
    return {
        "data.source": "store", "data.path": str(path), "data.image_size": info.shape[1], "data.channels": info.shape[0],
        "data.split_seed": info.split.seed,
    }  # fmt: skip


def verify_store(path: Path) -> StoreInfo:
    """Reads every byte of the store. Raises UserError, naming the file, where a sha256 is not the one in store.json."""
    info = open_store(path).info
    for name, file in info.files.items():
        _check(path / name, file, content=True)
    return info


def _damaged(file: Path, why: str) -> UserError:
    return UserError(f"{file}: damaged ({why}); prepare the store again")


def _check(file: Path, wanted: FileInfo, content: bool) -> None:
    """Raises UserError where a file is missing or has another size; with `content`, another sha256."""
    try:
        size = file.stat().st_size
        found = sha256(file) if content else ""
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; prepare the store again") from None
    if size != wanted.bytes:
        what = "truncated" if size < wanted.bytes else "too long"
        raise _damaged(file, f"{what}: {size:,} bytes, {INFO_FILE} says {wanted.bytes:,}")
    if content and found != wanted.sha256:
        raise _damaged(file, f"its sha256 is not the one in {INFO_FILE}")


@contextlib.contextmanager
def new_store(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end. Raises UserError where `out` exists or cannot be written."""
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists; remove it or give another place")
    try:
        with new_folder(out) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}; nothing is left of it") from None
