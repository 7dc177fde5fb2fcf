"""Images from a tree of folders, on disk or in a zip file."""

import contextlib
import os
import threading
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import annotated_by_files
from ambient_sweep.data.sources.decode import DAMAGED, MAX_BYTES, CorruptImage, any_deep, one_line
from ambient_sweep.data.sources.parts import parts
from ambient_sweep.data.sources.source import Loader, Source, source_path
from ambient_sweep.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAYBE_DEEP = (".png", ".tif", ".tiff")  # formats that can be deeper than 8 bits


class Folder:
    """The files below a folder; links to folders are followed, and a folder is read once, however often met."""

    def __init__(self, root: Path, where: str) -> None:
        """Raises UserError, which begins with `where`, for a folder that cannot be read or holds no image."""
        if not root.is_dir():
            raise UserError(f"{where} is not a folder")
        self.root, self.turns = root, contextlib.nullcontext()
        self.images = _images(_walk(root, where), where)  # names relative to the folder, in order

    def __contains__(self, name: str) -> bool:
        return (self.root / name).exists()

    def open(self, name: str) -> IO[bytes]:
        return open(self.root / name, "rb")

    def size(self, name: str) -> int:
        return os.stat(self.root / name).st_size


class Zip:
    """The files of a zip file, which threads take turns to read; a single folder that holds all images is the root."""

    def __init__(self, path: Path, where: str) -> None:
        """Raises UserError, which begins with `where`, for a file that cannot be read or holds no image."""
        self.turns = threading.Lock()
        try:
            archive = zipfile.ZipFile(path)
        except DAMAGED as error:
            raise UserError(f"{where}: cannot be read as a zip file ({one_line(error)})") from None
        # of entries of one name the last, which is what unpacking leaves
        entries = {info.filename.replace("\\", "/").removeprefix("./"): (archive, info) for info in archive.infolist()}
        names = _images(entries, where)
        first = names[0].split("/", 1)[0] + "/"
        root = first if all(name.startswith(first) for name in names) else ""
        self.entries = {name.removeprefix(root): entry for name, entry in entries.items() if name.startswith(root)}
        self.images = [name.removeprefix(root) for name in names]

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def open(self, name: str) -> IO[bytes]:
        archive, info = self.entries[name]
        return archive.open(info)

    def size(self, name: str) -> int:
        return self.entries[name][1].file_size

    def add(self, name: str, other: "Zip", other_name: str) -> "Zip":
        """Takes in the files of another zip file; those of each go below its name."""
        pairs = ((name, self), (other_name, other))
        self.images, self.entries = (
            sorted(f"{path}/{each}" for path, archive in pairs for each in archive.images),
            {f"{path}/{each}": entry for path, archive in pairs for each, entry in archive.entries.items()},
        )
        return self


Tree = Folder | Zip


def read_file(tree: Tree, name: str) -> bytes:
    """A whole file, and no more of it than its declared size. Raises CorruptImage."""
    try:
        size = tree.size(name)
        if size > MAX_BYTES:
            raise CorruptImage(f"larger than {MAX_BYTES} bytes")
        with tree.turns, tree.open(name) as file:
            return file.read(size)
    except DAMAGED as error:
        raise CorruptImage(f"cannot be read ({one_line(error)})") from None


def loaders(tree: Tree) -> Iterator[Loader]:
    """A loader for each of the images."""
    return (partial(read_file, tree, name) for name in tree.images)


def open_tree(config: DataConfig) -> Source:
    """The images of `data.path`, a folder or a zip file, or of the two zip files in it that `data.split` names.

    One deep PNG or TIFF file makes the source float32. Raises UserError.
    """
    path, where = source_path(config), f"data.path: {config.path}"
    names = parts(config)
    if config.source == "zip" and names is not None and path.is_dir():
        train, heldout = (Zip(path / name, f"data.split: {path / name}") for name in names)
        tree: Tree = train.add(names[0], heldout, names[1])
    else:
        tree = Zip(path, where) if config.source == "zip" else Folder(path, where)

    def read(name: str) -> bytes | None:
        try:
            return read_file(tree, name) if name in tree else None
        except CorruptImage as error:
            raise UserError(f"{config.path}/{name}: {error}") from None

    deep = any_deep(partial(tree.open, name) for name in tree.images if name.lower().endswith(MAYBE_DEEP))
    source = Source(tree.images, partial(loaders, tree), config.image_size, config.channels, depth8=not deep)
    return annotated_by_files(source, config, read)


def _images(names: Iterable[str], where: str) -> list[str]:
    """The images among files of these names, in order. Raises UserError where there is none, or a name that is not text."""
    images = sorted(name for name in names if name.lower().endswith(SUFFIXES) and not _is_hidden(name))
    if not images:
        raise UserError(f"{where}: holds no image ({', '.join(SUFFIXES)})")
    odd = next((name for name in images if name.encode(errors="replace").decode() != name), None)
    if odd is not None:
        raise UserError(f"{where}: the file name {odd!r} is not UTF-8; rename it")
    return images


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _walk(root: Path, where: str) -> Iterator[str]:
    """Names of all files below `root`, except those in hidden folders. Raises UserError."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{where}: the folder {error.filename or root} cannot be read ({error.strerror})") from None

    met: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in met:
            folders.clear()
            continue
        met.add(identity)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        paths = (os.path.join(folder, name) for name in files)
        yield from (os.path.relpath(path, root) for path in paths if os.path.isfile(path))
