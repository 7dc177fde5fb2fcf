"""Runs in an object store: a URL is opened as a working copy, a folder of this process that is written through.

All other code keeps to paths. What `storage` writes or removes in a working copy, it puts into or deletes from the store
before it returns, each file by one PUT; of a folder the JSON that describes it comes last, and goes first, so that no
reader takes a part for the whole. What other processes wrote comes by `fetch`. Other folders know nothing of all this.

A process keeps its copy to itself. A path in it is pickled as its URL, so that another process, on any node, gets the same
place in a copy of its own. While the store is away, calls wait and try again; nothing that was written is lost.
"""

import atexit
import copyreg
import fcntl
import fnmatch
import itertools
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ambient_sweep.errors import UserError
from ambient_sweep.object_client import ObjectClient

if TYPE_CHECKING:
    from pyarrow import fs

OPENED = (  # what a command needs of a run, or of a folder of runs, before it reads a part
    "sweep.yaml", ".begun.json", ".session.json", ".parquet", ".journal", "/trial.json", "/checkpoint.json",
    "/snapshot.json",
)  # fmt: skip
TENSORS = ".safetensors"
CHUNK = 64 * 2**20  # bytes; a smaller file becomes one PUT
THREADS = 16  # for many small files
COARSE_SECONDS = 2.0  # the times of objects are whole seconds, within which one may be replaced twice
UNKNOWN = (-1, -1), 0.0, 0.0  # size and times of an object that must be fetched
PREFIX = "ambient-sweep-"  # of the folders with working copies


@dataclass
class Copy:
    """A working copy in `folder`; keys are paths relative to it.

    `seen`: size and time of each object, since when it has them by this machine's monotonic clock, and when it was fetched.
    """

    client: ObjectClient
    folder: Path
    seen: dict[str, tuple[tuple[int, int], float, float]] = field(default_factory=dict)

    def key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def listed(self, folder: Path) -> "dict[str, fs.FileInfo]":
        """All objects below a folder, by their keys. Raises UserError for one that would lie outside of the copy."""
        from pyarrow import fs

        selector = fs.FileSelector(self.key(folder).removeprefix("."), recursive=True, allow_not_found=True)
        infos = self.client.tried(lambda: self.client.files.get_file_info(selector))
        found = {info.path: info for info in infos if info.is_file}
        for key in found:
            if key.startswith("/") or ".." in key.split("/"):
                raise UserError(f"{self.client.url}: its object {key} leads out of it; remove that")
        return found

    def upload(self, path: Path) -> None:
        def write() -> None:
            with path.open("rb") as file, self.client.files.open_output_stream(self.key(path)) as stream:
                shutil.copyfileobj(file, stream, CHUNK)

        self.client.tried(write)
        self.seen[self.key(path)] = UNKNOWN

    def download(self, info: "fs.FileInfo") -> None:
        """Brings one object, if it is not here as it is in the store. Tensors of one name and size are the same."""
        path, found, began = self.folder / info.path, (info.size, info.mtime_ns), time.monotonic()
        known, since, fetched = self.seen.get(info.path, UNKNOWN)
        since = since if known == found else began
        if path.exists() and known == found and fetched - since > COARSE_SECONDS:
            return
        if path.exists() and path.suffix == TENSORS and path.stat().st_size == info.size:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")

        def read() -> bool:
            """Whether it is whole: a stream ends at the length of the object it was opened for, even once replaced."""
            with self.client.files.open_input_stream(info.path) as stream, aside.open("wb") as file:
                shutil.copyfileobj(stream, file, CHUNK)
            now = self.client.files.get_file_info(info.path)
            if not now.is_file:
                raise FileNotFoundError
            return bool(now.size == aside.stat().st_size)

        try:
            while not self.client.tried(read):
                pass
            os.utime(aside, ns=(info.mtime_ns, info.mtime_ns))
            os.replace(aside, path)
        except FileNotFoundError:  # removed since it was listed
            return
        finally:
            aside.unlink(missing_ok=True)
        self.seen[info.path] = found, since, began

    def erase(self, key: Path) -> None:
        with suppress(FileNotFoundError):
            self.client.tried(lambda: self.client.files.delete_file(key.as_posix()))
        self.seen.pop(key.as_posix(), None)

    def forget(self, keys: Iterable[str]) -> None:
        """Removes from the copy what is gone from the store, and folders that are empty then."""
        for key in [key for key in keys if key in self.seen]:
            del self.seen[key]
            path = self.folder / key
            path.unlink(missing_ok=True)
            with suppress(OSError):
                for folder in path.parents:
                    folder.rmdir()


_COPIES: dict[str, Copy] = {}  # by URL


# -- opening ----------------------------------------------------------------------------------------------------------


def open_url(url: str, *names: str) -> Path:
    """The working copy of `url`, with what the store has of these patterns of names, if any.

    A place within a trial is opened with its whole run. Raises UserError, naming the URL, where it cannot be used.
    """
    head, slash, within = _split(url)
    copy = _opened(head)
    copy.client.check()
    if names:
        fetch_folder(copy.folder, *names)
    return copy.folder / f"{slash}{within}".lstrip("/")


def _split(url: str) -> tuple[str, str, str]:
    """The URL of a run or folder of runs, and what within it is meant."""
    parts = urlsplit(url)
    head, slash, within = parts.path.rstrip("/").partition("/trials/")
    if head.endswith(OPENED):  # a file of a run
        head, slash, within = head.rpartition("/")
    return parts._replace(path=head).geturl(), slash, within


def _opened(url: str) -> Copy:
    """The working copy of a URL, without asking the store. Raises UserError for a URL that is none."""
    if url not in _COPIES:
        client = ObjectClient.of(url)
        folder = Path(tempfile.mkdtemp(dir=_scratch()), client.files.base_path.rstrip("/").rpartition("/")[2])
        folder.mkdir()
        _COPIES[url] = Copy(client, folder)
    return _COPIES[url]


@cache
def _scratch() -> Path:
    """A private folder of this process, removed when it ends; here those of killed processes are removed."""
    parent = Path(tempfile.gettempdir()).resolve()
    for old in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # held, another user's, or gone
            os.close(_held(old))
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    _held(folder)  # before others look for it
    folder = folder.rename(parent / folder.name.removeprefix("."))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _held(folder: Path) -> int:
    """A lock on the folder, until the process ends. Raises BlockingIOError where another process has it."""
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def copy_of(path: Path) -> Copy | None:
    """The working copy that a path lies in; None for any other."""
    return next((copy for copy in _COPIES.values() if path.is_relative_to(copy.folder)), None)


def _pickled(path: Path) -> Any:
    copy = copy_of(path)
    return path.__reduce__() if copy is None else (_reopened, (copy.client.url, copy.key(path)))


def _reopened(url: str, key: str) -> Path:
    return _opened(url).folder / key


copyreg.pickle(type(Path()), _pickled)


# -- reading and writing: nothing is done for other folders ---------------------------------------------------------------


def fetch(file: Path) -> None:
    """Brings a file as it is in the store, if it is there; removes it here where it is gone from there."""
    if (copy := copy_of(file)) is not None:
        info = copy.client.tried(lambda: copy.client.files.get_file_info(copy.key(file)))
        if info.is_file:
            copy.download(info)
        else:
            copy.forget([info.path])


def fetch_folder(folder: Path, *names: str) -> None:
    """Brings all files below `folder` whose names match one of `names`, by default all, as they are in the store."""
    if (copy := copy_of(folder)) is None:
        return
    found = copy.listed(folder)
    copy.forget([key for key in list(copy.seen) if key not in found and (copy.folder / key).is_relative_to(folder)])
    wanted = [found[key] for key in found if not names or any(fnmatch.fnmatch(key, f"*{name}") for name in names)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(copy.download, wanted))


def put(path: Path) -> None:
    """Puts a file, or all files of a folder, into the store."""
    if (copy := copy_of(path)) is None:
        return
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    for file in sorted(files, key=_described_last):
        copy.upload(file)


def delete(path: Path) -> None:
    """Deletes a file, or all files of a folder, from the store."""
    if (copy := copy_of(path)) is None or path.name.endswith(".tmp"):
        return
    found = sorted(map(Path, copy.listed(path) or [copy.key(path)]), key=_described_last, reverse=True)
    with ThreadPoolExecutor(THREADS) as pool:
        for _, keys in itertools.groupby(found, _described_last):
            list(pool.map(copy.erase, keys))


def delete_halves(folder: Path) -> None:
    """Deletes tensors below `folder` whose description a killed process did not put, or deleted before them."""
    if (copy := copy_of(folder)) is not None:
        found = [Path(key) for key in copy.listed(folder)]
        described = {key.parent for key in found if key.suffix == ".json"}
        for key in found:
            if key.suffix == TENSORS and key.parent not in described:
                copy.erase(key)


def _described_last(file: Path) -> tuple[bool, bool]:
    return file.suffix == ".json", file.stem == "manifest"


def drop(path: Path) -> None:
    """Removes from the working copy what the store has, to save room on this machine."""
    if copy_of(path) is not None:
        shutil.rmtree(path, ignore_errors=True)


def stored_sizes(folder: Path) -> list[int]:
    """The sizes of all files below `folder` in the store; none for other folders."""
    copy = copy_of(folder)
    return [] if copy is None else [info.size for info in copy.listed(folder).values()]


# -- for people -------------------------------------------------------------------------------------------------------


def with_urls(text: str) -> str:
    """A text in which paths of working copies are replaced by their URLs."""
    for copy in _COPIES.values():
        parts = urlsplit(copy.client.url)
        pattern = re.escape(str(copy.folder)) + r"(/[^\s:;,'\"`?]*)?"
        text = re.sub(pattern, lambda found, p=parts: p._replace(path=p.path + (found[1] or "")).geturl(), text)  # type: ignore[misc]
    return text
