"""A folder of parts that never change: written by any process of any node, each all or nothing, read with checksums.

<root>/<key>/<part>/       the files of a part, and manifest.json with their hashes
<root>/.leases/            who reads what just now; .removing/: who is removing it
<root>/.*.tmp              parts being written or removed

A part appears by a rename and goes by one, so that nobody sees half of it; of two that write the same part the second
drops its own. What a process was writing when it was killed goes with the next `sweep`.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from ambient_sweep.stages.store import DamagedPart, Gone, Notes, digest
from ambient_sweep.storage import flush, remove, sha256

FORMAT = 1
MANIFEST, LEASES, REMOVING = "manifest.json", ".leases", ".removing"
STALE_SECONDS = 3600.0  # after which a reader or writer on another node counts as dead
TRIES = 5
OWN_HASH = ".safetensors"  # such files are named with their hash by the JSON beside them, which readers check


class FolderStore:
    """The store as a folder that all nodes see; files are hard links to those given where the file system has them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stored(self) -> set[str]:
        try:
            return {name for name in os.listdir(self.root) if not name.startswith(".")}
        except FileNotFoundError:
            return set()

    def having(self, part: str) -> set[str]:
        return {key for key in self.stored() if self.has(key, part)}

    def has(self, key: str, part: str) -> bool:
        return (self.root / key / part / MANIFEST).exists()

    def bytes(self) -> int:
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                try:
                    total += os.stat(os.path.join(folder, name)).st_size
                except FileNotFoundError:
                    continue  # removed, or renamed into its place
        return total

    def put(self, key: str, part: str, files: Mapping[str, Path], notes: Notes) -> bool:
        """Raises OSError that names the part where it cannot be written."""
        if self.has(key, part):
            return False
        aside, place = self._aside(), self.root / key / part
        try:
            aside.mkdir(parents=True)
            for name, file in files.items():
                _link(file, aside / name)
            hashes = {name: sha256(aside / name) for name in sorted(files) if not name.endswith(OWN_HASH)}
            manifest = {"format": FORMAT, "names": sorted(files), "sha256": hashes, "notes": notes}
            text = json.dumps(manifest | {"manifest_sha256": digest(manifest)}, indent=1)
            (aside / MANIFEST).write_text(text, encoding="utf-8")
            flush(aside / MANIFEST)
            flush(aside)
            return self._rename_in(aside, place)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(place)) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _rename_in(self, aside: Path, place: Path) -> bool:
        for _ in range(TRIES):
            with contextlib.suppress(FileExistsError):  # it was there, and was removed when that was looked at
                place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(aside, place)
            except FileNotFoundError:  # the key was removed in between
                continue
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                if (place / MANIFEST).exists():  # another was first
                    return False
                damaged = self._rename_out(place)  # it never comes without a manifest; None: another took it away
                if damaged is not None:
                    remove(damaged)
                continue
            with contextlib.suppress(FileNotFoundError):  # the key was removed since
                flush(place.parent)
            return True
        return False

    @contextlib.contextmanager
    def reading(self, key: str, part: str) -> Iterator[tuple[Path, Notes]]:
        place = self.root / key / part
        with self._marked(LEASES, key):
            if self._is_marked(REMOVING, key):
                raise Gone(f"{place}: is being removed")
            yield place, _checked(place)

    def notes(self, key: str, part: str) -> Notes:
        with self.reading(key, part) as (_, notes):
            return notes

    def remove(self, key: str, part: str | None = None) -> bool:
        place = self.root / key if part is None else self.root / key / part
        with self._marked(REMOVING, key):  # of a reader and a remover each marks first and looks then: one gives way
            aside = None if self._is_marked(LEASES, key) else self._rename_out(place)
        if aside is None:
            return False
        remove(aside)
        if part is not None:
            with contextlib.suppress(OSError):  # the last of its key or not
                place.parent.rmdir()
        return True

    def _rename_out(self, place: Path) -> Path | None:
        """Takes a folder out of sight, and gives its name for the time until it is removed; None where there is none."""
        aside = self._aside()
        try:
            os.rename(place, aside)
        except FileNotFoundError:
            return None
        return aside

    def sweep(self) -> None:
        for path in self.root.glob(".*.tmp"):
            if _dead(path, path.name.removeprefix(".").removesuffix(".tmp")):
                shutil.rmtree(path, ignore_errors=True)  # several may sweep at once
        for kind in (LEASES, REMOVING):
            for mark in (self.root / kind).glob("*"):
                if _dead(mark, mark.name.partition(".")[2]):
                    mark.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _marked(self, kind: str, key: str) -> Iterator[None]:
        """Says meanwhile that this process is reading or removing what is under a key."""
        mark = self.root / kind / f"{key}.{_owner()}"
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(mark)) from error
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _is_marked(self, kind: str, key: str) -> bool:
        marks = (self.root / kind).glob(f"{key}.*")
        return any(not _dead(mark, mark.name.partition(".")[2]) for mark in marks)

    def _aside(self) -> Path:
        return self.root / f".{_owner()}.tmp"


def _checked(place: Path) -> Notes:
    """The notes of a part whose files are those that were written."""
    file = place / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest.pop("manifest_sha256") != digest(manifest) or manifest["format"] != FORMAT:
            raise DamagedPart(f"{file}: damaged, or of another version")
        for name in manifest["names"]:
            if name in manifest["sha256"] and sha256(place / name) != manifest["sha256"][name]:
                raise DamagedPart(f"{place / name}: damaged (its sha256 is not the one in {MANIFEST})")
    except FileNotFoundError as error:
        if not place.is_dir():
            raise Gone(f"{place}: is not there") from None
        raise DamagedPart(f"{error.filename}: missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedPart(f"{file}: cannot be read ({error})") from None
    notes: Notes = manifest["notes"]
    return notes


# -- who is there -----------------------------------------------------------------------------------------------------


def _owner() -> str:
    """A name for what this process does now: node, process, and something of its own."""
    return f"{_node()}.{os.getpid()}.{uuid.uuid4().hex}"


def _node() -> str:
    return socket.gethostname().replace(".", "-") or "node"


def _dead(path: Path, owner: str) -> bool:
    """Whether the process that made `path` is gone: told at once on this node, by the file's age for others."""
    node, _, rest = owner.partition(".")
    number = rest.partition(".")[0]
    if node == _node() and number.isdigit():
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        return False
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True


# -- files ------------------------------------------------------------------------------------------------------------


def _link(file: Path, name: Path) -> None:
    """A hard link, or a copy on the disk where the file system has none. Files of trials are replaced, never changed."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
        flush(name)
