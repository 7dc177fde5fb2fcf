"""Images from a tree of folders."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.decode import MAX_BYTES, CorruptImage, Pixels, decode, is_deep
from ambient_sweep.data.sources.source import THREADS, Block, Form, read_blocks, source_path
from ambient_sweep.data.sources.tree import check_names, is_deep_name, is_image, tree_labels, tree_levels
from ambient_sweep.errors import UserError


@dataclass(frozen=True)
class FolderSource:
    """The images below `root`, in the order of their relative names."""

    root: Path
    names: list[str]
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
        return read_blocks(self.form, len(self), size, self._read)

    def _read(self, row: int) -> Pixels:
        return decode(file_bytes(os.path.join(self.root, self.names[row])), self.form.size, self.form.channels)


def file_bytes(path: str) -> bytes:
    """An image file, whole. Raises CorruptImage where it cannot be opened or is absurdly large."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise CorruptImage(f"the file is larger than {MAX_BYTES} bytes")
            return file.read()
    except OSError as error:
        raise CorruptImage(f"cannot be opened ({error.strerror})") from None


def open_folder(config: DataConfig) -> FolderSource:
    """The folder `data.path`, with labels by dataset.json or first subfolder and noise levels by levels.csv.

    One PNG or TIFF file deeper than 8 bits makes the whole source float32. Raises UserError.
    """
    root = source_path(config)
    if not root.is_dir():
        raise UserError(f"data.path: {config.path} is not a folder")
    names = image_names(root)
    check_names(names, f"data.path: {config.path}")

    def read(name: str) -> str | None:
        try:
            return (root / name).read_text(encoding="utf-8-sig") if (root / name).exists() else None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{root / name}: cannot be read ({error})") from None

    labels, classes = tree_labels(names, read, str(root))
    sigma = tree_levels(names, read, str(root), config.sigma_column)
    deep = _any_deep(root, [name for name in names if is_deep_name(name)])
    return FolderSource(root, names, labels, classes, sigma, Form(config.image_size, config.channels, not deep))


def image_names(root: Path, key: str = "data.path") -> list[str]:
    """Relative names of the images below `root`, in order.

    Links to folders are followed; a folder is read once, however often met. Raises UserError, which begins with `key`.
    """
    return sorted(_walk(root, key))


def _walk(root: Path, key: str) -> Iterator[str]:
    met: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        folder = os.path.join(root, prefix)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in met:
                continue
            met.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            raise UserError(f"{key}: the folder {folder} cannot be read ({error.strerror})") from None
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                if not entry.name.startswith(".") and entry.name != "__MACOSX":
                    waiting.append(name + "/")
            elif is_image(name) and entry.is_file():
                yield name


def _any_deep(root: Path, names: list[str]) -> bool:
    """Whether a file is deeper than 8 bits, by the headers of all."""

    def deep(name: str) -> bool:
        try:
            with open(os.path.join(root, name), "rb", buffering=0) as file:
                return is_deep(file)
        except OSError:
            return False  # counted as corrupt when it is read

    with ThreadPoolExecutor(THREADS) as pool:
        parts = [names[start : start + 1000] for start in range(0, len(names), 1000)]
        return any(pool.map(lambda part: any(deep(name) for name in part), parts))
