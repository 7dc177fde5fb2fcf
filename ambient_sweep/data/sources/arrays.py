"""Images from arrays: .npy and .npz files, scikit-learn's digits, and whatever other sources hold as an array."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import LABEL_COLUMN, annotated
from ambient_sweep.data.sources.decode import DAMAGED, CorruptImage, PixelArray, one_line
from ambient_sweep.data.sources.parts import SPLIT, parts
from ambient_sweep.data.sources.source import Source, source_path
from ambient_sweep.data.sources.window import suggested
from ambient_sweep.errors import UserError

TOLERANCE = 1e-3  # by which floats may lie outside their range, a quarter of a grey level; they are clipped
MIN_SIDE = 4
IMAGES = DataConfig.model_fields["image_column"].default


class Arrays:
    """The arrays of a .npz file, read when asked for, or the one of a .npy file, which stays on disk."""

    def __init__(self, path: Path) -> None:
        """Raises UserError for any other file."""
        self.path = path
        try:
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        except DAMAGED as error:
            raise self._unreadable("a .npy or .npz file", error) from None
        self.arrays: Mapping[str, Any] = {IMAGES: loaded} if isinstance(loaded, np.ndarray) else loaded

    def read(self, name: str) -> NDArray[Any]:
        """One array. Raises UserError where it is missing or cannot be read."""
        if name not in self.arrays:
            raise UserError(f"{self.path}: has no array {name}; it has {', '.join(self.arrays)}")
        try:
            return np.asarray(self.arrays[name])
        except DAMAGED as error:
            raise self._unreadable(f"the array {name}", error) from None

    def _unreadable(self, what: str, error: BaseException) -> UserError:
        return UserError(
            f"{self.path}: cannot be read as {what} ({one_line(error)}); pickled objects are never loaded: save a plain "
            "array by np.save(path, np.stack(images))"
        )

    def images(self, name: str = IMAGES) -> NDArray[Any]:
        """The array `name`, or the only array of 3 or 4 dimensions where the default name is missing, as [N, H, W, C]."""
        if name == IMAGES and name not in self.arrays:
            shapes = {each: self.read(each).shape for each in self.arrays}
            several = [each for each, shape in shapes.items() if len(shape) in (3, 4)]
            if len(several) != 1:
                has = ", ".join(f"{each} {list(shape)}" for each, shape in shapes.items()) or "nothing"
                raise UserError(f"{self.path}: name the array of images by data.image_column; it has {has}")
            name = several[0]
        return channels_last(self.read(name), f"{self.path}: {name}")


def open_array(config: DataConfig) -> Source:
    """The .npy or .npz file `data.path`: uint8, floats in [0, 1] or [-1, 1], or numbers in data.range. Raises UserError."""
    named = parts(config)
    if named is not None and (source := _open_parts(config, named)) is not None:
        return source
    arrays = Arrays(source_path(config))
    images, where = arrays.images(config.image_column), str(arrays.path)
    names, native = row_names(arrays.path, images), config.range is not None
    source = array_source(images, names, config.image_size, config.channels, where, native)
    return annotated(source, config, {name: partial(arrays.read, name) for name in arrays.arrays}, where)


def _open_parts(config: DataConfig, parts: tuple[str, str]) -> Source | None:
    """The files or arrays that `data.split` names, in the folder or file `data.path`; None for values of the array split.

    Of one file, other arrays belong to a part by the word that is its own: train_labels is the column labels of
    train_images, beside test_images.
    """
    root, column = source_path(config), config.image_column
    if root.is_dir():
        files = [Arrays(root / part) for part in parts]
        columns = [{name: name for name in file.arrays} for file in files]
        images = [file.images(column) for file in files]
    else:
        files = [Arrays(root)] * 2
        if SPLIT in files[0].arrays:
            return None
        words = [{*part.split("_")} - {*other.split("_")} for part, other in (parts, parts[::-1])]
        columns = [_of_part(files[0], own) for own in words]
        names = [
            each if each in files[0].arrays else own.get(column, each) for each, own in zip(parts, columns, strict=True)
        ]
        images = [files[0].images(name) for name in names]

    def read(name: str) -> NDArray[Any]:
        return np.concatenate([file.read(own[name]).ravel() for file, own in zip(files, columns, strict=True)])

    train, heldout = (
        array_source(
            each, [f"{part}#{row}" for row in range(len(each))], config.image_size, config.channels, f"{root}: {part}"
        )
        for part, each in zip(parts, images, strict=True)
    )
    both = dataclasses.replace(
        train,
        names=[*train.names, *heldout.names],
        loaders=lambda: chain(train.loaders(), heldout.loaders()),
        depth8=train.depth8 and heldout.depth8,
        published=np.arange(len(train) + len(heldout)) < len(train),
    )
    return annotated(both, config, {name: partial(read, name) for name in columns[0] if name in columns[1]}, str(root))


def _of_part(file: Arrays, words: set[str]) -> dict[str, str]:
    """The arrays with one of these words between the underscores of their names, by the rest of these."""
    split = {name: name.split("_") for name in file.arrays}
    return {"_".join(w for w in each if w not in words): name for name, each in split.items() if words & {*each}}


def open_digits(config: DataConfig) -> Source:
    """scikit-learn's 1,797 digits, 8x8, with 17 grey levels, hence floats (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images[..., None] / 16).astype(np.float32)
    names = [f"digit-{i:04d}" for i in range(len(images))]
    source = array_source(images, names, config.image_size, config.channels, "digits")
    return annotated(source, config, {LABEL_COLUMN: lambda: bunch.target}, "digits")


def row_names(path: Path, images: NDArray[Any]) -> list[str]:
    """What to call the rows of a file."""
    return [f"{path.name}#{row}" for row in range(len(images))]


def array_source(
    images: NDArray[Any], names: Sequence[str], size: int, channels: int, where: str, native: bool = False
) -> Source:
    """The rows of images [N, H, W, C], uint8 or floats; native: as they are, for a window to scale.

    Raises UserError, with `where`, for other integers, and for floats in neither range.
    """
    depth8 = images.dtype == np.uint8
    if depth8 or native:
        load: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
    elif images.dtype.kind == "f":
        load = partial(_scaled, signed=_is_signed(images, where))
    else:
        low, high = int(images.min()), int(images.max())
        held = f"is {images.dtype} with values from {low} to {high}"
        raise UserError(f"{where}: {held}; say what is black and white, as in {suggested(low, high)}")
    return Source(names, lambda: (partial(load, image) for image in images), size, channels, depth8)


def _scaled(image: NDArray[Any], signed: bool) -> PixelArray:
    """A float image in [0, 1]. Raises CorruptImage."""
    values = image.astype(np.float32)
    if not np.isfinite(values).all():
        raise CorruptImage("holds NaN or infinity")
    low = -1 if signed else 0
    if values.min() < low - TOLERANCE or values.max() > 1 + TOLERANCE:
        raise CorruptImage(f"values from {values.min():g} to {values.max():g}, outside [{low}, 1]")
    return np.asarray(np.clip((values + 1) / 2 if signed else values, 0, 1), dtype=np.float32)


def channels_last(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Images [N, H, W], [N, H, W, C] or [N, C, H, W] as [N, H, W, C]. Raises UserError, with `where`, for anything else."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where}: is {array.dtype}; images must be uint8, other whole numbers or floats")
    candidates = []
    if array.ndim == 3:
        candidates = [array[..., None]]
    elif array.ndim == 4:
        candidates = [each for each in (array, array.transpose(0, 2, 3, 1)) if each.shape[3] in (1, 3)]
    fitting = [each for each in candidates if min(each.shape[1:3]) >= MIN_SIDE]
    if len(fitting) != 1 or len(array) == 0:
        raise UserError(
            f"{where}: has the shape {list(array.shape)}; images are [N,H,W], [N,H,W,C] or [N,C,H,W], at least one, with "
            f"1 or 3 channels and sides of at least {MIN_SIDE}"
        )
    return fitting[0]


def _is_signed(images: NDArray[Any], where: str) -> bool:
    """Whether floats lie in [-1, 1], by most of the images: one below 0 in a set of [0, 1] is that image's mistake.

    Raises UserError where no image lies in either range.
    """
    low, high = (reduce(images, axis=(1, 2, 3)).astype(np.float64) for reduce in (np.min, np.max))  # NaN where one is
    usable = (low >= -1 - TOLERANCE) & (high <= 1 + TOLERANCE)
    if not usable.any():
        lowest, highest = np.fmin.reduce(low), np.fmax.reduce(high)
        raise UserError(
            f"{where}: holds values from {lowest:g} to {highest:g}; float images must lie in [0, 1] or [-1, 1], unless "
            f"data.range says what is black and white, as in {suggested(lowest, highest)}; images that were exported with "
            "noise on them: prepare --observations"
        )
    return bool(np.mean(low[usable] < -TOLERANCE) > 0.5)
