"""Images from arrays: .npy and .npz files, scikit-learn's digits, and whatever other sources hold as an array."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import Labels, class_labels, noise_levels
from ambient_sweep.data.sources.decode import DAMAGED, CorruptImage, PixelArray, fit, one_line
from ambient_sweep.data.sources.source import Source, source_path
from ambient_sweep.errors import UserError

TOLERANCE = 1e-3  # by which floats may lie outside their range, a quarter of a grey level; they are clipped
MIN_SIDE = 4
IMAGES, LABELS = (DataConfig.model_fields[f"{kind}_column"].default for kind in ("image", "label"))


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

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def read(self, name: str) -> NDArray[Any]:
        """One array. Raises UserError where it is missing or cannot be read."""
        if name not in self:
            raise UserError(f"{self.path}: has no array {name}; it has {', '.join(self._arrays)}")
        try:
            return np.asarray(self._arrays[name])
        except DAMAGED as error:
            raise self._unreadable(f"the array {name}", error) from None

    def _unreadable(self, what: str, error: BaseException) -> UserError:
        return UserError(
            f"{self.path}: cannot be read as {what} ({one_line(error)}); pickled objects are never loaded: save a plain "
            "array by np.save(path, np.stack(images))"
        )

    def images(self, name: str = IMAGES) -> NDArray[Any]:
        """The array `name`, or the only array of 3 or 4 dimensions where the default name is missing, as [N, H, W, C]."""
        if name == IMAGES and name not in self:
            shapes = {each: self.read(each).shape for each in self._arrays}
            several = [each for each, shape in shapes.items() if len(shape) in (3, 4)]
            if len(several) != 1:
                has = ", ".join(f"{each} {list(shape)}" for each, shape in shapes.items()) or "nothing"
                raise UserError(f"{self.path}: name the array of images by data.image_column; it has {has}")
            name = several[0]
        return channels_last(self.read(name), f"{self.path}: {name}")

    def column(self, name: str, count: int) -> NDArray[Any]:
        """The array `name`, [N] or [N, 1], as [N]."""
        values = self.read(name)
        if values.shape not in ((count,), (count, 1)):
            raise UserError(f"{self.path}: {name}: has the shape {list(values.shape)}; one value per image: [{count}]")
        return values.reshape(count)


def open_array(config: DataConfig) -> Source:
    """The .npy or .npz file `data.path`: uint8, or floats in [0, 1] or [-1, 1]. Raises UserError."""
    arrays = Arrays(source_path(config))
    images = arrays.images(config.image_column)
    names = row_names(arrays.path, images)
    labels: Labels = (None, ())
    name = config.label_column
    if name is not None and (name in arrays or name != LABELS):
        labels = class_labels(arrays.column(name, len(images)), f"{arrays.path}: {name}")
    sigma = None
    if config.sigma_column is not None:
        levels = arrays.column(config.sigma_column, len(images))
        sigma = noise_levels(levels, f"{arrays.path}: {config.sigma_column}", names)
    return array_source(images, names, config.image_size, config.channels, str(arrays.path), labels, sigma)


def open_digits(config: DataConfig) -> Source:
    """scikit-learn's 1,797 digits, 8x8, with 17 grey levels, hence floats (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images[..., None] / 16).astype(np.float32)
    names, labels = [f"digit-{i:04d}" for i in range(len(images))], bunch.target.astype(np.int64)
    return array_source(images, names, config.image_size, config.channels, "digits", (labels, tuple("0123456789")))


def row_names(path: Path, images: NDArray[Any]) -> list[str]:
    """What to call the rows of a file."""
    return [f"{path.name}#{row}" for row in range(len(images))]


def array_source(
    images: NDArray[Any], names: Sequence[str], size: int, channels: int, where: str,
    labels: Labels = (None, ()), sigma: NDArray[np.float32] | None = None,
) -> Source:  # fmt: skip
    """The rows of images [N, H, W, C], uint8 or floats. Raises UserError, with `where`, for floats in neither range."""
    depth8 = images.dtype == np.uint8
    load = partial(_load, size=size, channels=channels, signed=not depth8 and _is_signed(images, where))
    return Source(names, lambda: (partial(load, image) for image in images), size, channels, depth8, *labels, sigma)


def _load(image: Any, *, size: int, channels: int, signed: bool) -> PixelArray:
    if image.dtype == np.uint8:
        return fit(image, size, channels)
    values = image.astype(np.float32)
    if not np.isfinite(values).all():
        raise CorruptImage("holds NaN or infinity")
    low = -1 if signed else 0
    if values.min() < low - TOLERANCE or values.max() > 1 + TOLERANCE:
        raise CorruptImage(f"values from {values.min():g} to {values.max():g}, outside [{low}, 1]")
    return fit(np.clip((values + 1) / 2 if signed else values, 0, 1), size, channels)


def channels_last(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Images [N, H, W], [N, H, W, C] or [N, C, H, W] as [N, H, W, C]. Raises UserError, with `where`, for anything else."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise UserError(f"{where}: is {array.dtype}; images must be uint8, or floats in [0, 1] or [-1, 1]")
    candidates = []
    if array.ndim == 3:
        candidates = [array[..., None]]
    elif array.ndim == 4:
        candidates = [each for each in (array, array.transpose(0, 2, 3, 1)) if each.shape[3] in (1, 3)]
    fitting = [each for each in candidates if min(each.shape[1:3]) >= MIN_SIDE]
    if len(fitting) != 1:
        raise UserError(
            f"{where}: has the shape {list(array.shape)}; images are [N,H,W], [N,H,W,C] or [N,C,H,W] with 1 or 3 "
            f"channels, and sides of at least {MIN_SIDE}"
        )
    if len(array) == 0:
        raise UserError(f"{where}: holds no image")
    return fitting[0]


def _is_signed(images: NDArray[Any], where: str) -> bool:
    """Whether floats lie in [-1, 1], by most of the images: one below 0 in a set of [0, 1] is that image's mistake.

    Raises UserError where no image lies in either range.
    """
    usable = negative = 0
    lowest, highest = np.inf, -np.inf
    for start in range(0, len(images), 256):
        flat = images[start : start + 256].reshape(-1, images[0].size)
        low, high = flat.min(axis=1).astype(np.float64), flat.max(axis=1).astype(np.float64)  # NaN where one is
        good = (low >= -1 - TOLERANCE) & (high <= 1 + TOLERANCE)
        usable += int(good.sum())
        negative += int((good & (low < -TOLERANCE)).sum())
        lowest, highest = np.fmin(lowest, np.fmin.reduce(low)), np.fmax(highest, np.fmax.reduce(high))
    if usable == 0:
        raise UserError(
            f"{where}: holds values from {lowest:g} to {highest:g}; float images must lie in [0, 1] or [-1, 1] "
            "(divide by 255, or save uint8)"
        )
    return negative > usable / 2
