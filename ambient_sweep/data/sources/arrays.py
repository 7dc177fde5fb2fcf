"""Images from one array: a .npy file, an array of a .npz file, or parts that another source reads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources import npz
from ambient_sweep.data.sources.columns import Labels, class_numbers, noise_levels, numbered
from ambient_sweep.data.sources.decode import CorruptImage, Pixels, fit
from ambient_sweep.data.sources.source import THREADS, Block, Form, ShardNames, read_block, source_path
from ambient_sweep.errors import UserError

Layout = Literal["NHW", "NHWC", "NCHW"]
Parts = Callable[[int], Iterator[NDArray[Any]]]  # the whole array in order, so many rows at a time
TOLERANCE = 1e-3  # by which floats may lie outside their range, a quarter of a grey level; they are clipped
MIN_SIDE = 4


@dataclass(frozen=True)
class ArraySource:
    """The rows of an array, of type uint8 or float."""

    parts: Parts
    layout: Layout
    names: Sequence[str]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    sigma: NDArray[np.float32] | None
    form: Form
    signed: bool = False  # floats in [-1, 1]

    @property
    def depth8(self) -> bool:
        return self.form.depth8

    def __len__(self) -> int:
        return len(self.names)

    def blocks(self, size: int) -> Iterator[Block]:
        parts, start = self.parts(size), 0
        with ThreadPoolExecutor(THREADS) as pool:
            while start < len(self):
                try:
                    part = next(parts)
                except npz.BROKEN as error:
                    yield from self._lost(start, size, f"the file is damaged from here on ({error})")
                    return
                rows = range(start, start + len(part))
                yield read_block(pool, self.form, rows, partial(self._pixels, part, start))
                start += len(part)

    def _lost(self, start: int, size: int, reason: str) -> Iterator[Block]:
        for first in range(start, len(self), size):
            rows = range(first, min(first + size, len(self)))
            yield Block(first, self.form.zeros(len(rows)), [(row, reason) for row in rows])

    def _pixels(self, part: NDArray[Any], start: int, row: int) -> Pixels:
        image = part[row - start]
        image = image[..., None] if self.layout == "NHW" else image
        image = np.moveaxis(image, 0, -1) if self.layout == "NCHW" else image
        if image.dtype == np.uint8:
            return fit(image, self.form.size, self.form.channels)
        values = image.astype(np.float32)
        if not np.isfinite(values).all():
            raise CorruptImage("holds NaN or infinity")
        low = -1 if self.signed else 0
        if values.min() < low - TOLERANCE or values.max() > 1 + TOLERANCE:
            raise CorruptImage(f"values from {values.min():g} to {values.max():g}, outside [{low}, 1]")
        unit = (values + 1) / 2 if self.signed else values
        return fit(np.clip(unit, 0, 1), self.form.size, self.form.channels)


def open_array(config: DataConfig) -> ArraySource:
    """The .npy or .npz file `data.path`: uint8, or floats in [0, 1] or [-1, 1]. Floats are read once to tell which.

    Raises UserError.
    """
    path = source_path(config)
    magic = _magic(path)
    if magic.startswith(npz.MAGIC):
        return _open_npy(path, config)
    if magic.startswith(b"PK"):
        return _open_npz(path, config)
    raise UserError(f"data.path: {config.path} is neither a .npy nor a .npz file")


def _open_npy(path: Path, config: DataConfig) -> ArraySource:
    if config.label_column not in (None, DataConfig.model_fields["label_column"].default):
        raise UserError(f"data.label_column: {path} is a .npy file, which holds images alone; save a .npz file")
    if config.sigma_column is not None:
        raise UserError(f"data.sigma_column: {path} is a .npy file, which holds images alone; save a .npz file")
    header = npz.npy_header(path)

    def parts(size: int) -> Iterator[NDArray[Any]]:
        for start in range(0, header.shape[0], size):  # a map for each part, so that pages already read are let go
            yield np.load(path, mmap_mode="r", allow_pickle=False)[start : start + size]

    return _array_source(path, config, header, parts, (None, ()), None)


def _open_npz(path: Path, config: DataConfig) -> ArraySource:
    headers = npz.npz_headers(path)
    name = _image_name(headers, config.image_column, path)
    header = headers[name]
    layout_of(header.shape, header.dtype, f"{path}: {name}")
    labels = _npz_labels(path, headers, config.label_column, header.shape[0])
    sigma = None
    if config.sigma_column is not None:
        values = _npz_column(path, headers, config.sigma_column, header.shape[0])
        if values.dtype.kind not in "fiu":
            raise UserError(f"{path}: {config.sigma_column}: is {values.dtype}; numbers are needed")
        names = ShardNames([path.name], [header.shape[0]])
        sigma = noise_levels(values, f"{path}: {config.sigma_column}", names)
    return _array_source(path, config, header, partial(npz.npz_parts, path, name, header), labels, sigma)


def _array_source(
    path: Path, config: DataConfig, header: npz.Header, parts: Parts, labels: Labels, sigma: NDArray[np.float32] | None
) -> ArraySource:
    layout = layout_of(header.shape, header.dtype, str(path))
    depth8 = header.dtype == np.uint8
    return ArraySource(
        parts=parts,
        layout=layout,
        names=ShardNames([path.name], [header.shape[0]]),
        labels=labels[0],
        classes=labels[1],
        sigma=sigma,
        form=Form(config.image_size, config.channels, depth8),
        signed=not depth8 and _is_signed(parts, str(path)),
    )


def layout_of(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Layout:
    """How an array holds images. Raises UserError, with `where`, for one that holds none."""
    wanted = "images are [N,H,W], [N,H,W,C] or [N,C,H,W] with 1 or 3 channels"
    if dtype != np.uint8 and dtype.kind != "f":
        raise UserError(f"{where}: is {dtype}; images must be uint8, or floats in [0, 1] or [-1, 1]")
    layouts: list[tuple[Layout, tuple[int, ...]]] = []
    if len(shape) == 3:
        layouts.append(("NHW", shape[1:]))
    if len(shape) == 4 and shape[3] in (1, 3):
        layouts.append(("NHWC", shape[1:3]))
    if len(shape) == 4 and shape[1] in (1, 3):
        layouts.append(("NCHW", shape[2:]))
    fitting = [layout for layout, sides in layouts if min(sides) >= MIN_SIDE]
    if len(fitting) != 1:
        raise UserError(f"{where}: has the shape {list(shape)}; {wanted}, and sides of at least {MIN_SIDE}")
    if shape[0] == 0:
        raise UserError(f"{where}: holds no image")
    return fitting[0]


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise UserError(f"data.path: {path} cannot be opened ({error.strerror})") from None


def _image_name(headers: dict[str, npz.Header], column: str, path: Path) -> str:
    """`column`; where that is the default and missing, the only array of 3 or 4 dimensions."""
    has = ", ".join(f"{name} {list(header.shape)}" for name, header in headers.items()) or "nothing"
    if column in headers:
        return column
    if column != DataConfig.model_fields["image_column"].default:
        raise UserError(f"{path}: has no array data.image_column={column}; it has {has}")
    candidates = [name for name, header in headers.items() if len(header.shape) in (3, 4)]
    if len(candidates) != 1:
        raise UserError(f"{path}: name the array of images by data.image_column; it has {has}")
    return candidates[0]


def _npz_column(path: Path, headers: dict[str, npz.Header], column: str, count: int) -> NDArray[Any]:
    """An array [N] or [N, 1] as [N]. Raises UserError for one that is missing or of another shape."""
    if column not in headers:
        raise UserError(f"{path}: has no array {column}; it has {', '.join(headers)}")
    shape = headers[column].shape
    if shape not in ((count,), (count, 1)):
        raise UserError(f"{path}: {column}: has the shape {list(shape)}; [{count}] is needed, a value per image")
    return npz.npz_array(path, column).reshape(count)


def _npz_labels(path: Path, headers: dict[str, npz.Header], column: str | None, count: int) -> Labels:
    default = DataConfig.model_fields["label_column"].default
    if column is None or (column not in headers and column == default):
        return None, ()
    values = _npz_column(path, headers, column, count)
    if values.dtype.kind in "iu":
        return class_numbers(values, f"{path}: {column}")
    if values.dtype.kind == "U":
        return numbered(values.tolist())
    raise UserError(f"{path}: {column}: is {values.dtype}; labels are whole numbers or strings (null: no labels)")


def _is_signed(parts: Parts, where: str) -> bool:
    """Whether floats lie in [-1, 1], by most of the images: one below 0 in a set of [0, 1] is that image's mistake.

    Raises UserError where no image lies in either range.
    """
    usable = negative = 0
    lowest, highest = np.inf, -np.inf
    try:
        for part in parts(256):
            flat = part.reshape(len(part), -1)
            low, high = flat.min(axis=1).astype(np.float64), flat.max(axis=1).astype(np.float64)  # NaN where one is
            good = (low >= -1 - TOLERANCE) & (high <= 1 + TOLERANCE)
            usable += int(good.sum())
            negative += int((good & (low < -TOLERANCE)).sum())
            lowest, highest = np.fmin(lowest, np.fmin.reduce(low)), np.fmax(highest, np.fmax.reduce(high))
    except npz.BROKEN as error:
        raise UserError(f"{where}: is damaged ({error}); make or fetch it anew") from None
    if usable == 0:
        raise UserError(
            f"{where}: holds values from {lowest:g} to {highest:g}; float images must lie in [0, 1] or [-1, 1] "
            "(divide by 255, or save uint8)"
        )
    return negative > usable / 2
