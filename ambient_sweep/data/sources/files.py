"""Images from a tree of folders, on disk or in a zip file."""

import contextlib
import os
import posixpath
import re
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.decode import DAMAGED, FORMATS, MAX_BYTES, CorruptImage, any_deep, one_line, pointer
from ambient_sweep.data.sources.metadata import LABELS_FILE, METADATA_FILES, read_metadata
from ambient_sweep.data.sources.parts import part_note
from ambient_sweep.data.sources.source import Source, passed_line, source_path
from ambient_sweep.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
# Camera files and scans of slides begin as TIFF or JPEG files do, but hold another picture first
RAW = (".dng", ".nef", ".cr2", ".arw", ".pef", ".srw", ".3fr", ".iiq", ".thm", ".svs", ".ndpi", ".scn")
# What NAS and operating systems write, thumbnails and deleted images among it; hidden names are passed over anyway
SYSTEM = {
    "@eadir", "@tmp", "@__thumb", "@synoresource", "@recycle", "@recently-snapshot", "@sharesnap", "@sharebin",
    "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycled", "recycler", "trashbox", "lost+found",
    "lost.dir", "found.000", "system volume information", "network trash folder", "temporary items", "__macosx",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
ABOUT = (LABELS_FILE, *METADATA_FILES)  # say something of the images; where they lie is the root
SIGNATURES = rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|BM.{4}\0{4}"
EIGHT_BITS = (".jpg", ".jpeg", ".webp", ".bmp", ".gif")  # formats that cannot be deeper


class Folder:
    """The files below a folder; links to folders are followed, and a folder is read once, however often met."""

    def __init__(self, root: Path, where: str) -> None:
        """Raises UserError, which begins with `where`, for a folder that cannot be read or holds no image."""
        if not root.is_dir():
            raise UserError(f"{where} is not a folder")
        self.root, self.top, self.turns = root, "", contextlib.nullcontext()
        self.passed = dict[str, str]()  # kinds of the files passed over, by name
        self.images = _images(self, walk(root, where, self.passed), where)  # names relative to the folder, in order

    def __contains__(self, name: str) -> bool:
        return os.path.lexists(self.root / name)

    def open(self, name: str) -> IO[bytes]:
        return open(self.root / name, "rb")

    def size(self, name: str) -> int:
        """Bytes of a file. Raises CorruptImage for a link that leads nowhere."""
        path = self.root / name
        if path.is_symlink() and not path.exists():
            raise CorruptImage(pointer(os.fsencode(os.readlink(path))) or "a link that leads nowhere")
        return os.stat(path).st_size


class Zip:
    """The files of a zip file, which threads take turns to read; a single folder that holds all images is the root."""

    def __init__(self, path: Path, where: str) -> None:
        """Raises UserError, which begins with `where`, for a file that cannot be read or holds no image."""
        self.turns, self.top = threading.Lock(), ""
        try:
            self.archive = zipfile.ZipFile(path)
        except DAMAGED as error:
            raise UserError(f"{where}: cannot be read as a zip file ({one_line(error)})") from None
        self.passed, self.entries = dict[str, str](), dict[str, zipfile.ZipInfo]()
        files = (info for info in self.archive.infolist() if not info.filename.endswith(("/", "\\")))
        for place, info in enumerate(files):
            name = posixpath.normpath("/" + info.filename.replace("\\", "/")).lstrip("/") or info.filename
            if name in self.entries:  # of entries of one name the last, which is what unpacking leaves
                self.passed[f"{name} before file {place}"] = "replaced by an entry of the same name"
            self.entries[name] = info
        names = _images(self, self.entries, where)
        first = names[0].split("/", 1)[0] + "/"
        rooted = all(name.startswith(first) for name in names) and self.entries.keys().isdisjoint(ABOUT)
        self.top = first if rooted else ""
        self.images = [name.removeprefix(self.top) for name in names]

    def __contains__(self, name: str) -> bool:
        return self.top + name in self.entries

    def open(self, name: str) -> IO[bytes]:
        return self.archive.open(self.entries[self.top + name])

    def size(self, name: str) -> int:
        return self.entries[self.top + name].file_size


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


def open_tree(config: DataConfig) -> Source:
    """The images of `data.path`, a folder or a zip file; one deep PNG or TIFF file makes it float32. Raises UserError."""
    path, where = source_path(config), f"data.path: {config.path}"
    tree: Tree = Zip(path, where) if config.source == "zip" else Folder(path, where)

    def read(name: str) -> bytes | None:
        tree.passed.pop(tree.top + name, None)
        try:
            data = read_file(tree, name) if name in tree else None
        except CorruptImage as error:
            raise UserError(f"{config.path}/{name}: {error}") from None
        if data is not None and (reason := pointer(data)):
            raise UserError(f"{config.path}/{name}: {reason}")
        return data

    deep = any_deep(partial(tree.open, name) for name in tree.images if not name.lower().endswith(EIGHT_BITS))
    columns, notes = read_metadata(tree.images, read, config)
    if (note := part_note(tree.images)) and config.split.train is None:
        notes.insert(0, note)
    return Source(
        tree.images, lambda: (partial(read_file, tree, name) for name in tree.images),
        config.image_size, config.channels, depth8=not deep,
        notes=tuple(notes), passed=tree.passed, columns=columns,
    )  # fmt: skip


def _images(tree: Tree, names: Iterable[str], where: str) -> list[str]:
    """The images among files of these names, in order; adds the others to `tree.passed`.

    Raises UserError where there is no image, or one whose name is not text.
    """
    kinds = {name: kind_of(name, partial(tree.open, name)) for name in sorted(names)}
    tree.passed |= {name: kind for name, kind in kinds.items() if kind is not None}
    images = [name for name, kind in kinds.items() if kind is None]
    if not images:
        raise UserError(f"{where}: holds no image ({', '.join(FORMATS)}) {passed_line(tree.passed)}".rstrip())
    odd = next((name for name in images if name.encode(errors="replace").decode() != name), None)
    if odd is not None:
        raise UserError(f"{where}: the file name {odd!r} is not UTF-8; rename it")
    return images


def kind_of(name: str, opened: Callable[[], IO[bytes]]) -> str | None:
    """The kind of a file that is passed over; None for an image, by its ending or else by its first bytes.

    A file that cannot be opened or stands for another may be an image, so it counts as one, which reading finds corrupt.
    """
    lower, kind = name.lower(), place_kind(name)
    if kind is not None or lower.endswith(SUFFIXES):
        return kind
    if not lower.endswith((*ARCHIVES, *RAW)) and posixpath.basename(name) not in ABOUT:
        try:
            with opened() as file:
                head = file.read(512)
        except DAMAGED:
            return None
        if re.match(SIGNATURES, head, re.DOTALL) or pointer(head):
            return None
    ending = re.search(r"[^/](\.[a-z]\w{0,9})$", lower, re.ASCII)
    return f"{ending[1] if ending else 'without ending'}{' (not unpacked)' if lower.endswith(ARCHIVES) else ''}"


def place_kind(name: str) -> str | None:
    """The kind of a file that is passed over for its name or for a folder above it."""
    if not SYSTEM.isdisjoint(name.lower().split("/")):
        return "thumbnails, trash or system"
    return "hidden" if any(part.startswith(".") for part in name.split("/")) else None


def walk(root: Path, where: str, passed: dict[str, str]) -> Iterator[str]:
    """Names of all files below `root`, links that lead nowhere among them; adds pipes and the like to `passed`.

    Links to folders are followed, except in and into folders that are passed over. Raises UserError.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{where}: the folder {error.filename or root} cannot be read ({error.strerror})") from None

    met = set(map(str, root.resolve().parents))
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in met:
            folders.clear()
            continue
        met.add(real)
        paths = [os.path.join(folder, name) for name in files]
        for hidden in (os.path.join(folder, name) for name in folders if place_kind(name)):
            below = [] if os.path.islink(hidden) else os.walk(hidden)  # which ignores what may not be read
            paths += [os.path.join(within, name) for within, _, names in below for name in names]
        folders[:] = sorted(name for name in folders if not place_kind(name))
        for path in sorted(paths):
            name = os.path.relpath(path, root)
            if os.path.isfile(path) or not os.path.exists(path):
                yield name
            else:
                passed[name] = "pipe, socket or device"
