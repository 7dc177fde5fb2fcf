"""Durable files: written aside, flushed and renamed, so that no reader ever sees half of one; hashes; locks.

Temporary names begin with a dot and end in `.tmp`. Every OSError names the file or folder that could not be written. What
lies in the working copy of an object store is written there too (object_store.py).
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ambient_sweep import object_store

LEASE_SECONDS = 30.0  # within which a lease is renewed, three times
SETTLING_SECONDS = 1.0  # in which the lease of another may show
_HELD = list[Path]()  # locks of this process, but for leases


def keep_private() -> None:
    """What this process makes from now on is its owner's alone, whatever the umask: folders 0700, files 0600."""
    os.umask(0o077)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, if missing. Raises OSError; also where a lock that this process holds has gone from
    a folder above, as from the empty mount point of storage."""
    for lock in tuple(_HELD):
        if folder.is_relative_to(lock.parent):
            lock.stat()
    folder.mkdir(parents=True, exist_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, whose folder is made if missing. On OSError the previous content stays."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what the block writes there replaces `path` when the block ends without an error."""
    with naming(path):
        temporary = _aside(path)
        make_folder(path.parent)
        try:
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    object_store.put(path)


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside `place`, which replaces `place` when the block ends without an error."""
    with naming(place):
        aside = _aside(place)
        try:
            make_folder(aside)
            yield aside
            for written in aside.iterdir():
                flush(written)
            flush(aside)
            _replace(aside, place)
            flush(place.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    object_store.put(place)


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
    object_store.delete(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_whole(folder: Path) -> bool:
    """Removes a folder by one rename first, so that nobody ever sees a part of it; False where there is none."""
    object_store.delete(folder)
    aside = _aside(folder)
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return False
    remove(aside)
    return True


def remove_leftovers(folder: Path, below: str = "") -> None:
    """Removes from `folder`, where no other process writes, what killed ones left; below="**/": from all in it."""
    object_store.delete_halves(folder)
    for aside in list(folder.glob(f"{below}.*.tmp")):
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

    In an object store, which has no locks, a lease takes its place. Raises BlockingIOError where another process holds it
    and `wait` is False; OSError where `file` cannot be written or its file system has no locks.
    """
    if (copy := object_store.copy_of(file)) is not None:
        with _leased(file, copy, wait):
            yield
        return
    for folder in (file.parent.parent, file.parent):  # of a trial; its run's is there, or storage is away
        folder.mkdir(exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(handle.fileno()).st_nlink:  # removed by the one that held it
            raise BlockingIOError
        _HELD.append(file)
        try:
            yield
        finally:
            _HELD.remove(file)


@contextlib.contextmanager
def _leased(file: Path, copy: object_store.Copy, wait: bool) -> Iterator[None]:
    """Holds `file` by renewing it; whoever finds it waits until it is renewed, or for LEASE_SECONDS.

    A holder that finds the lease of another, since it was stopped or cut off for longer, writes nothing more to the store
    and ends itself by SIGTERM.
    """
    mine, ended = {"id": uuid.uuid4().hex, "host": platform.node(), "pid": os.getpid()}, threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_SECONDS / 3):
            with contextlib.suppress(OSError):  # the store is away, as other threads will say
                if _lease(file).get("id", mine["id"]) != mine["id"]:
                    copy.client.given_up, copy.client.why = math.inf, "another process has taken this run over"
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                write_atomic(file, json.dumps(mine | {"renewed": time.monotonic()}).encode())

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    try:
        while _lease(file).get("id") != mine["id"]:
            if not _is_renewed(file, LEASE_SECONDS):
                write_atomic(file, json.dumps(mine).encode())
                time.sleep(SETTLING_SECONDS)  # of two that begin at once, the last one to write has it
            elif not wait:
                raise BlockingIOError
        thread.start()
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
        with contextlib.suppress(OSError):  # it runs out where the store is away
            if _lease(file).get("id") == mine["id"]:
                remove(file)


def _lease(file: Path) -> dict[str, Any]:
    object_store.fetch(file)
    return dict(json.loads(file.read_bytes())) if file.exists() else {}


def _is_renewed(file: Path, seconds: float) -> bool:
    """Whether somebody renews a lease within so many seconds; of a process that has ended here, that is known at once."""
    before = _lease(file)
    if not before or (before["host"] == platform.node() and not Path(f"/proc/{before['pid']}").exists()):
        return False
    for _ in range(math.ceil(seconds)):  # looks, since both wait while the store is away
        time.sleep(1)
        if (now := _lease(file)) != before:
            return bool(now)
    return False


def is_locked(file: Path) -> bool:
    """Whether some process holds the lock on `file`; of other machines only where the file system shares locks."""
    if object_store.copy_of(file) is not None:
        recent = bool(_lease(file)) and abs(time.time() - file.stat().st_mtime) < LEASE_SECONDS
        return recent or _is_renewed(file, LEASE_SECONDS / 2)  # this clock and the store's may differ
    try:
        with file.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError) as error:
        return isinstance(error, BlockingIOError)
    return False
