"""Durable files: written aside, flushed and renamed, so that no reader ever sees half of one; hashes; locks.

Temporary names begin with a dot and end in `.tmp`. Every OSError names the file or folder that could not be written.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def keep_private() -> None:
    """What this process makes from now on is its owner's alone, whatever the umask: folders 0700, files 0600."""
    os.umask(0o077)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, whose folder is made if missing. On OSError the previous content stays."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what the block writes there replaces `path` when the block ends without an error."""
    with naming(path):
        temporary = _aside(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside `place`, which replaces `place` when the block ends without an error."""
    with naming(place):
        aside = _aside(place)
        try:
            aside.mkdir(parents=True)
            yield aside
            for written in aside.iterdir():
                flush(written)
            flush(aside)
            _replace(aside, place)
            flush(place.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _replace(aside: Path, place: Path) -> None:
    """Renames `aside` to `place`. A folder with content cannot be overwritten, so it is renamed out of the way first."""
    old = _aside(place)
    with contextlib.suppress(FileNotFoundError):
        os.rename(place, old)
    os.rename(aside, place)
    remove(old)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"


@contextlib.contextmanager
def naming(path: Path, *, unnamed: bool = False) -> Iterator[None]:
    """Makes an OSError name `path`; only one that names no file, as of a full disk, where `unnamed`."""
    try:
        yield
    except OSError as error:
        if unnamed and error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def remove(path: Path) -> None:
    """Removes a folder with its content, or a file; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_whole(folder: Path) -> bool:
    """Removes a folder by one rename first, so that nobody ever sees a part of it; False where there is none."""
    aside = _aside(folder)
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return False
    remove(aside)
    return True


def remove_leftovers(folder: Path) -> None:
    """Removes from `folder` the temporary files of a killed process."""
    for aside in folder.glob(".*.tmp"):
        remove(aside)


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(document: Any) -> str:
    """The SHA-256, in hex, of a JSON document, independent of white space and the order of keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def locked(file: Path, *, wait: bool) -> Iterator[None]:
    """Holds an exclusive lock on `file`, made if missing, until the block ends or the process does.

    Raises BlockingIOError where another process holds it and `wait` is False; OSError where `file` cannot be written or
    its file system has no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_locked(file: Path) -> bool:
    """Whether some process holds the lock on `file`; of other machines only where the file system shares locks."""
    try:
        with file.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError) as error:
        return isinstance(error, BlockingIOError)
    return False
