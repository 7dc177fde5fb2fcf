"""CIFAR-10's files as its authors publish them (and torchvision unpacks them), binary or Python version."""

import io
import pickle
import struct
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.arrays import ArraySource
from ambient_sweep.data.sources.columns import no_columns
from ambient_sweep.data.sources.source import Form, source_path
from ambient_sweep.errors import UserError

PUBLISHED = 10_000  # records in each file
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
_BYTES = 3 * 32 * 32
_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
# What a damaged pickle may raise, once it can call nothing
_BROKEN = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError,
    OverflowError, AssertionError, MemoryError, RecursionError, struct.error,
)  # fmt: skip
Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images [n, 3072], class numbers [n]


def open_cifar10(config: DataConfig) -> ArraySource:
    """The 60,000 images: data_batch_1 to 5, "train-00000" and on, then test_batch. `data.path`: their folder, or its parent.

    The binary version is preferred; of the Python version, which is made of pickles, plain arrays and lists are read and
    nothing else. Raises UserError.
    """
    no_columns(config)
    files = _files(source_path(config), str(config.path))
    batches = [_read(file)[1] for file in files]
    _check_counts(files, [len(labels) for labels in batches])
    tests = [len(labels) for file, labels in zip(files, batches, strict=True) if file.name.startswith("test")]
    labels = np.concatenate(batches)
    trained = len(labels) - sum(tests)
    names = [f"train-{i:05d}" for i in range(trained)] + [f"test-{i:05d}" for i in range(sum(tests))]
    form = Form(config.image_size, config.channels, depth8=True)
    return ArraySource(partial(_parts, files), "NCHW", names, labels, CLASSES, None, form)


def _files(root: Path, place: str) -> list[Path]:
    """The batches in order. Raises UserError where there are none, or one between others is missing."""
    for folder in (root, *(root / name for name in _FOLDERS)):
        for suffix in (".bin", ""):
            count = len([path for path in folder.glob(f"data_batch_*{suffix}") if path.suffix == suffix])
            wanted = [folder / f"data_batch_{number + 1}{suffix}" for number in range(count)]
            test = folder / f"test_batch{suffix}"
            missing = [path for path in wanted if not path.is_file()]
            if missing:
                raise UserError(f"data.path: {missing[0]} is missing; fetch CIFAR-10 anew")
            if wanted or test.is_file():
                return [*wanted, test] if test.is_file() else wanted
    raise UserError(
        f"data.path: {place} holds no data_batch_1 or test_batch, nor a folder {' or '.join(_FOLDERS)} that does"
    )


def _check_counts(files: list[Path], counts: list[int]) -> None:
    """Raises UserError where a file holds other records than 10,000, unless all are equally short: a part made for tests."""
    wanted = min(PUBLISHED, max(counts))
    for file, count in zip(files, counts, strict=True):
        if count != wanted:
            raise UserError(
                f"{file}: holds {count} records instead of {wanted}; it is cut off or not CIFAR-10's, fetch it anew"
            )


def _read(file: Path) -> Batch:
    images, labels = _read_binary(file) if file.suffix == ".bin" else _read_python(file)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise UserError(f"{file}: is not CIFAR-10: its labels are not all from 0 to 9")
    return images, labels


def _read_binary(file: Path) -> Batch:
    """Records of a label byte and 3,072 bytes of red, green and blue rows; mapped, not read."""
    size = file.stat().st_size
    if size == 0 or size % (1 + _BYTES):
        raise UserError(
            f"{file}: {size} bytes are no multiple of {1 + _BYTES}; it is cut off or not CIFAR-10's binary version"
        )
    records = np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, 1 + _BYTES)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_python(file: Path) -> Batch:
    try:
        content = _PlainUnpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        images, labels = fields["data"].values, np.array(fields["labels"], dtype=np.int64)
        if images.ndim != 2 or images.shape[1] != _BYTES or labels.shape != (len(images),):
            raise ValueError(f"data of shape {images.shape}, labels of shape {labels.shape}")
    except (*_BROKEN, OSError) as error:
        raise UserError(f"{file}: is not CIFAR-10's Python version ({' '.join(str(error).split())})") from None
    return images, labels


def _parts(files: list[Path], size: int) -> Iterator[NDArray[np.uint8]]:
    return (part.reshape(-1, *SHAPE) for part in _regrouped((_read(file)[0] for file in files), size))


def _regrouped(parts: Iterable[NDArray[np.uint8]], size: int) -> Iterator[NDArray[np.uint8]]:
    """`size` rows at a time, fewer at the end."""
    kept: list[NDArray[np.uint8]] = []
    for part in parts:
        while len(part):
            taken = part[: size - sum(map(len, kept))]
            kept, part = [*kept, taken], part[len(taken) :]
            if sum(map(len, kept)) == size:
                yield np.concatenate(kept)
                kept = []
    if kept:
        yield np.concatenate(kept)


class _Bytes:
    """Stands in for numpy's array while a pickle is read: bytes and a shape, with no code of numpy's at work."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = np.zeros(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Uint8):
            raise pickle.UnpicklingError("an array that is not of bytes")
        self.values = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


class _Uint8:
    """Stands in for numpy's type, of which uint8 is the only one read."""

    __slots__ = ()

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ("u1", b"u1", "|u1", b"|u1"):
            raise pickle.UnpicklingError(f"an array of {code}")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes have not."""


class _PlainUnpickler(pickle._Unpickler):
    """Reads dicts, lists, numbers, strings and arrays of bytes; whatever else a pickle asks for is refused.

    A pickle can call what `find_class` gives out. It gives out new functions that build the two inert classes above.
    Of the standard library's two unpicklers this is the one in Python: a pickle of ten bytes makes the one in C fill the
    memory, and so does protocol 5's bytearray in either.
    """

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it is of protocol 5")

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _refuse}

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return lambda *_: _Bytes()
            case "numpy", "dtype":
                return lambda *arguments: _Uint8(*arguments)
            case "numpy", "ndarray":
                return None  # an argument of _reconstruct
            case "_codecs", "encode":
                return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
