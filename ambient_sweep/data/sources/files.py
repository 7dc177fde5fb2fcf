"""Images from a tree of folders, on disk or in a zip file."""

import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import ReadFile, folder_labels, folder_levels
from ambient_sweep.data.sources.decode import DAMAGED, MAX_BYTES, CorruptImage, PixelArray, decode, is_deep, one_line
from ambient_sweep.data.sources.source import Loader, Source, source_path
from ambient_sweep.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAYBE_DEEP = (".png", ".tif", ".tiff")  # formats that can be deeper than 8 bits


def _source(
    config: DataConfig, names: list[str], loaders: Callable[[], Iterator[Loader]], read: ReadFile,
    open_image: Callable[[str], IO[bytes]], inner: Sequence[str],
) -> Source:  # fmt: skip
    """inner: the names as dataset.json and levels.csv know them. One deep PNG or TIFF file makes the source float32."""
    place = str(config.path)
    labels, classes = folder_labels(inner, read, place)
    sigma = folder_levels(inner, read, place, config.sigma_column)
    deep = any(is_deep(partial(open_image, name)) for name in names if name.lower().endswith(MAYBE_DEEP))
    return Source(names, loaders, config.image_size, config.channels, not deep, labels, classes, sigma)


def _checked(names: list[str], where: str) -> list[str]:
    """Raises UserError where there is no image, or a name that is not text."""
    if not names:
        raise UserError(f"{where}: holds no image ({', '.join(SUFFIXES)})")
    odd = next((name for name in names if name.encode(errors="replace").decode() != name), None)
    if odd is not None:
        raise UserError(f"{where}: the file name {odd!r} is not UTF-8; rename it")
    return names


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


# -- folders --------------------------------------------------------------------------------------------------------


def open_folder(config: DataConfig) -> Source:
    """The folder `data.path`, labels by dataset.json or first subfolder, levels by levels.csv. Raises UserError."""
    root = source_path(config)
    if not root.is_dir():
        raise UserError(f"data.path: {config.path} is not a folder")

    def read(name: str) -> bytes | None:
        try:
            return (root / name).read_bytes() if (root / name).exists() else None
        except OSError as error:
            raise UserError(f"{root / name}: cannot be read ({error.strerror})") from None

    names = image_names(root, f"data.path: {config.path}")
    loaders = partial(folder_loaders, root, names, config.image_size, config.channels)
    return _source(config, names, loaders, read, lambda name: open(root / name, "rb"), names)


def image_names(root: Path, where: str) -> list[str]:
    """Relative names of the images below `root`, in order.

    Links to folders are followed; a folder is read once, however often met. Raises UserError, which begins with `where`.
    """
    return _checked(sorted(_walk(root, where)), where)


def _walk(root: Path, where: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{where}: the folder {error.filename or root} cannot be read ({error.strerror})") from None

    met: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        here, known = os.path.relpath(folder, root), (status.st_dev, status.st_ino) in met
        met.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not known and not _is_hidden(name))
        for name in files:
            shown = not known and not _is_hidden(name) and name.lower().endswith(SUFFIXES)
            if shown and os.path.isfile(os.path.join(folder, name)):
                yield name if here == "." else f"{here}/{name}"


def folder_loaders(root: Path, names: Sequence[str], size: int, channels: int) -> Iterator[Loader]:
    """A loader for each of the files `names` below `root`."""
    return (partial(_load_file, os.path.join(root, name), size, channels) for name in names)


def _load_file(path: str, size: int, channels: int) -> PixelArray:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise CorruptImage(f"the file is larger than {MAX_BYTES} bytes")
            data = file.read()
    except OSError as error:
        raise CorruptImage(f"cannot be opened ({error.strerror})") from None
    return decode(data, size, channels)


# -- zip files ------------------------------------------------------------------------------------------------------


def open_zip(config: DataConfig) -> Source:
    """The zip file `data.path`; labels, noise levels and depth as for a folder. Raises UserError.

    A single folder that holds everything is taken for the root of labels and of dataset.json and levels.csv.
    """
    path, where = source_path(config), f"data.path: {config.path}"
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED as error:
        raise UserError(f"{where}: cannot be read as a zip file ({one_line(error)})") from None
    with archive:
        # of entries of one name the last, which is what unpacking leaves
        entries = {info.filename.replace("\\", "/").removeprefix("./"): info for info in archive.infolist()}
        images = (name for name in entries if name.lower().endswith(SUFFIXES))
        shown = (name for name in images if not any(_is_hidden(part) for part in name.split("/")))
        names = _checked(sorted(shown), where)
        first = names[0].split("/", 1)[0] + "/"
        root = first if all(name.startswith(first) for name in names) else ""

        def read(name: str) -> bytes | None:
            try:
                return _unpacked(archive, entries[root + name]) if root + name in entries else None
            except CorruptImage as error:
                raise UserError(f"{config.path}: {root}{name}: {error}") from None

        loaders = partial(_zip_loaders, path, [entries[name] for name in names], config.image_size, config.channels)
        inner = [name.removeprefix(root) for name in names]
        return _source(config, names, loaders, read, lambda name: archive.open(entries[name]), inner)


def _zip_loaders(path: Path, entries: Sequence[zipfile.ZipInfo], size: int, channels: int) -> Iterator[Loader]:
    """Opens the file anew, so that no handle is shared with another process; threads take turns to read it."""
    with zipfile.ZipFile(path) as archive:
        lock = threading.Lock()
        for entry in entries:
            yield partial(_load_entry, archive, lock, entry, size, channels)


def _load_entry(
    archive: zipfile.ZipFile, lock: threading.Lock, entry: zipfile.ZipInfo, size: int, channels: int
) -> PixelArray:
    with lock:
        data = _unpacked(archive, entry)
    return decode(data, size, channels)


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > MAX_BYTES:
        raise CorruptImage(f"declares {entry.file_size} bytes, more than {MAX_BYTES}")
    try:
        with archive.open(entry) as file:
            return file.read(entry.file_size)  # and no more, whatever it unpacks to
    except DAMAGED as error:
        raise CorruptImage(f"cannot be unpacked ({one_line(error)})") from None
