"""Images from arrays: .npy and .npz files, scikit-learn's digits, CIFAR-10's binary version as its authors publish it."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import LABEL
from ambient_sweep.data.sources.decode import DAMAGED, TOLERANCE, one_line, scaled
from ambient_sweep.data.sources.parts import SPLIT, joined, parts
from ambient_sweep.data.sources.source import Source, refuse_pointer, source_path, suggested
from ambient_sweep.data.sources.table import Table
from ambient_sweep.errors import UserError

MIN_SIDE = 4
IMAGES = DataConfig.model_fields["image_column"].default
CIFAR10 = "cifar-10-batches-bin"
BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = np.dtype([("label", "u1"), ("image", "u1", (3, 32, 32))])


class Arrays:
    """The arrays of a .npz file, read when asked for, or the one of a .npy file, which stays on disk."""

    def __init__(self, path: Path) -> None:
        """Raises UserError for any other file."""
        self.path = path
        try:
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        except DAMAGED as error:
            raise self._unreadable("a .npy or .npz file", error) from None
        self._arrays: Mapping[str, Any] = {IMAGES: loaded} if isinstance(loaded, np.ndarray) else loaded
        self.names = [*self._arrays]

    def read(self, name: str) -> NDArray[Any]:
        """One array. Raises UserError where it is missing or cannot be read."""
        if name not in self.names:
            raise UserError(f"{self.path}: has no array {name}; it has {', '.join(self.names)}")
        try:
            return np.asarray(self._arrays[name])
        except DAMAGED as error:
            raise self._unreadable(f"the array {name}", error) from None

    def _unreadable(self, what: str, error: BaseException) -> UserError:
        cure = "pickled objects are never loaded: save a plain array by np.save(path, np.stack(images))"
        return UserError(f"{self.path}: cannot be read as {what} ({one_line(error)}); {cure}")


def open_array(config: DataConfig) -> Source:
    """The .npy or .npz file `data.path`: uint8, floats in [0, 1] or [-1, 1], or numbers in data.range.

    `data.split` may name arrays of the file, as train_images and test_images. The other arrays with a word that only one
    of the names has are its columns: train_labels is the column labels of the images that train. Raises UserError.
    """
    file, wanted = Arrays(source_path(config)), parts(config)
    if wanted is None or SPLIT in file.names:
        return _source(file, {name: name for name in file.names}, config)
    sources = {}
    for part, other in (wanted, wanted[::-1]):
        words = {*part.split("_")} - {*other.split("_")}
        split = {name: name.split("_") for name in file.names}
        columns = {"_".join(w for w in each if w not in words): name for name, each in split.items() if words & {*each}}
        if part in file.names or not columns:
            columns[config.image_column] = part
        sources[part] = _source(file, columns, config)
    return joined(sources)


def _source(file: Arrays, names: Mapping[str, str], config: DataConfig) -> Source:
    """The images and columns among the arrays of a file, by the names of columns."""
    where, name = str(file.path), names.get(config.image_column, config.image_column)
    if config.image_column == IMAGES and IMAGES not in names:
        shapes = dict[str, tuple[int, ...]]()
        for each in names.values():
            with contextlib.suppress(UserError):  # of pickled objects
                shapes[each] = file.read(each).shape
        several = [each for each, shape in shapes.items() if len(shape) in (3, 4)]
        if len(several) != 1:
            has = ", ".join(f"{each} {list(shape)}" for each, shape in shapes.items()) or "nothing"
            raise UserError(f"{where}: name the array of images by data.image_column; it has {has}")
        name = several[0]
    images = channels_last(file.read(name), f"{where}: {name}")
    rows = [f"{file.path.name}#{row}" for row in range(len(images))]
    columns = Table(where, len(rows), names, lambda column: file.read(names[column]))
    return array_source(images, rows, config, columns)


def open_digits(config: DataConfig) -> Source:
    """scikit-learn's 1,797 digits, 8x8, with 17 grey levels, hence floats (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images[..., None] / 16).astype(np.float32)
    names = [f"digit-{i:04d}" for i in range(len(images))]
    return array_source(images, names, config, Table("digits", len(names), [LABEL], lambda _: bunch.target))


def open_cifar10(config: DataConfig) -> Source:
    """data_batch_1.bin to 5, then test_batch.bin, in the folder `data.path` or one below it. Raises UserError."""
    root = source_path(config)
    folder = root / CIFAR10 if (root / CIFAR10).is_dir() else root
    there = [file for file in BATCHES if (folder / file).exists()]
    train = [_records(folder / file) for file in there]
    test = _records(folder / "test_batch.bin")
    records = np.concatenate([*train, test])
    names = [f"train-{i:05d}" for i in range(len(records) - len(test))] + [f"test-{i:05d}" for i in range(len(test))]
    columns = Table(str(folder), len(records), [LABEL], lambda _: np.array(CLASSES)[records["label"]])
    missing = tuple(f"CIFAR-10 is not complete: {file} is missing" for file in BATCHES if file not in there)
    source = array_source(records["image"].transpose(0, 2, 3, 1), names, config, columns)
    return dataclasses.replace(source, notes=missing)


def _records(file: Path) -> NDArray[Any]:
    """RECORD [n]. Raises UserError."""
    refuse_pointer(file)
    try:
        records = np.frombuffer(file.read_bytes(), RECORD)
        if records["label"].max() < len(CLASSES):
            return records
        why = "a label is out of range"
    except OSError as error:
        why = str(error.strerror)
    except ValueError:  # of frombuffer, and of max where there is no record
        why = "it is cut off"
    raise UserError(f"data.path: {file} cannot be read ({why}); give the folder of CIFAR-10's .bin files")


def array_source(images: NDArray[Any], names: Sequence[str], config: DataConfig, columns: Table) -> Source:
    """The rows of images [N, H, W, C], uint8 or floats; with data.range as they are, for a window to scale.

    Raises UserError for other integers, and for floats in neither range.
    """
    depth8 = images.dtype == np.uint8
    if depth8 or config.range is not None:
        load: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
    elif images.dtype.kind == "f":
        lowest = -1 if _is_signed(images, columns.where) else 0
        load = lambda image: scaled(image.astype(np.float32), lowest, 1)  # noqa: E731
    else:
        low, high = int(images.min()), int(images.max())
        held = f"is {images.dtype} with values from {low} to {high}"
        raise UserError(f"{columns.where}: {held}; say what is black and white, as in {suggested(low, high)}")
    loaders = lambda: (partial(load, image) for image in images)  # noqa: E731
    return Source(names, loaders, config.image_size, config.channels, depth8, columns=columns)


def channels_last(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Images [N, H, W], [N, H, W, C] or [N, C, H, W] as [N, H, W, C]. Raises UserError, with `where`, for anything else."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where}: is {array.dtype}; images must be uint8, other whole numbers or floats")
    images = array[..., None] if array.ndim == 3 else array
    orders = [images, images.transpose(0, 2, 3, 1)] if images.ndim == 4 else []
    fitting = [each for each in orders if each.shape[3] in (1, 3) and min(each.shape[1:3]) >= MIN_SIDE]
    if len(fitting) != 1 or len(array) == 0:
        form = f"[N,H,W], [N,H,W,C] or [N,C,H,W] with 1 or 3 channels and sides of at least {MIN_SIDE}"
        raise UserError(f"{where}: has the shape {list(array.shape)}; images are {form}, at least one")
    return fitting[0]


def _is_signed(images: NDArray[Any], where: str) -> bool:
    """Whether floats lie in [-1, 1], by most of the images: one below 0 in a set of [0, 1] is that image's mistake.

    Raises UserError where no image lies in either range.
    """
    low, high = (reduce(images, axis=(1, 2, 3)).astype(np.float64) for reduce in (np.min, np.max))  # NaN where one is
    usable = (low >= -1 - TOLERANCE) & (high <= 1 + TOLERANCE)
    if not usable.any():
        finite = np.isfinite(low) & np.isfinite(high)
        if not finite.any():
            raise UserError(f"{where}: holds NaN or infinity in all images")
        lowest, highest = low[finite].min(), high[finite].max()
        cure = f"as in {suggested(lowest, highest)}; for images that were exported with noise: prepare --observations"
        form = f"float images must lie in [0, 1] or [-1, 1], unless data.range says what is black and white, {cure}"
        raise UserError(f"{where}: holds values from {lowest:g} to {highest:g}; {form}")
    return bool(np.mean(low[usable] < -TOLERANCE) > 0.5)
