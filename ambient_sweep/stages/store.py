"""The store of stages: a folder of parts that never change, which all processes of all nodes see.

<root>/<key>/<part>/    the files of a part, and manifest.json with its notes and the files' hashes

A part appears by one rename and disappears by one, so no reader takes half of it for the whole. Two processes that store
the same part store the same content.
"""

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ambient_sweep.errors import UserError
from ambient_sweep.storage import digest, new_folder, remove, remove_whole, sha256

Notes = dict[str, Any]

MANIFEST, SEAL = "manifest.json", "manifest_sha256"
LEFTOVER_SECONDS = 3600.0  # after which a temporary folder belongs to a killed process
SELF_CHECKED = ".safetensors"  # whose hash stands in the JSON beside them, which readers check
RACES = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)  # another process writes or removes the same part


class Gone(UserError):
    """The part does not exist, or no longer."""


class DamagedPart(UserError):
    """A file of the part is missing, or differs from what was written."""


class Store:
    """Parts under keys. A part is a few files that are written once, together, and its notes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stored(self) -> set[str]:
        """All keys. Raises OSError where the folder cannot be read."""
        try:
            return {name for name in os.listdir(self.root) if not name.startswith(".")}
        except FileNotFoundError:
            return set()

    def having(self, part: str) -> set[str]:
        return {key for key in self.stored() if self.has(key, part)}

    def has(self, key: str, part: str) -> bool:
        return os.path.exists(self.root / key / part / MANIFEST)

    def bytes(self) -> int:
        """The size of all parts, counting files that trials hold as well."""
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # removed or renamed since
                    total += os.stat(os.path.join(folder, name)).st_size
        return total

    def put(self, key: str, part: str, files: Mapping[str, Path], notes: Notes) -> bool:
        """Stores `files` by name, all or nothing, as hard links where the file system has them: trials replace files.

        False where the part is there already. Raises OSError that names the part where it cannot be written.
        """
        if self.has(key, part):
            return False
        try:
            with new_folder(self.root / key / part) as aside:
                for name, file in files.items():
                    _link(file, aside / name)
                hashes = {name: sha256(aside / name) for name in sorted(files) if not name.endswith(SELF_CHECKED)}
                manifest = {"names": sorted(files), "sha256": hashes, "notes": notes}
                text = json.dumps(manifest | {SEAL: digest(manifest)}, indent=1)
                (aside / MANIFEST).write_text(text, encoding="utf-8")
        except OSError as error:
            if error.errno in RACES and all(file.exists() for file in files.values()):
                return False
            raise
        return True

    @contextlib.contextmanager
    def reading(self, key: str, part: str) -> Iterator[tuple[Path, Notes]]:
        """The folder of a part whose files are as they were written, and its notes.

        Raises Gone where there is none, or where it is removed while the block reads it; DamagedPart.
        """
        place = self.root / key / part
        before = _identity(place)
        try:
            yield place, _checked(place)
        except (UserError, FileNotFoundError):
            if before is None or _identity(place) != before:
                raise Gone(f"{place}: does not exist") from None
            raise

    def notes(self, key: str, part: str) -> Notes:
        """The notes of a part. Raises as `reading` does."""
        with self.reading(key, part) as (_, notes):
            return notes

    def remove(self, key: str, part: str | None = None) -> bool:
        """Removes a part, or all of a key; False where there is none."""
        try:
            removed = remove_whole(self.root / key / (part or ""))
        except OSError as error:
            if error.errno not in RACES:
                raise
            removed = True
        with contextlib.suppress(OSError):  # gone, or another part remains
            (self.root / key).rmdir()
        return removed

    def remove_leftovers(self) -> None:
        """Removes what killed processes left half written or half removed."""
        for folder in (self.root, *(self.root / key for key in self.stored())):
            with contextlib.suppress(FileNotFoundError):
                for aside in folder.glob(".*.tmp"):
                    if time.time() - aside.stat().st_mtime > LEFTOVER_SECONDS:
                        remove(aside)


def _identity(place: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name; None where there is none."""
    with contextlib.suppress(OSError):
        found = place.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _checked(place: Path) -> Notes:
    """The notes of a part, after comparing its files with the manifest."""
    file = place / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest.pop(SEAL) != digest(manifest):
            raise DamagedPart(f"{file}: damaged (its content differs from its {SEAL})")
        for name in manifest["names"]:
            if name in manifest["sha256"] and sha256(place / name) != manifest["sha256"][name]:
                raise DamagedPart(f"{place / name}: damaged (its sha256 is not the one in {MANIFEST})")
    except FileNotFoundError as error:
        raise DamagedPart(f"{error.filename}: missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedPart(f"{file}: cannot be read ({error})") from None
    notes: Notes = manifest["notes"]
    return notes


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
