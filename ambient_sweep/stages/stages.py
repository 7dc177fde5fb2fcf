"""The stages of a sweep: states of training that several trials have in common, and the evaluations made of them.

A state is stored under the key of all that determines it (stages/keys.py); beside it lie the snapshot that
ema.kind=power makes there, and full evaluations, each by what it depends on:

<root>/stages/<images>-<hash>/state/              state.safetensors, state.json
                              snapshot/           snapshot.safetensors, snapshot.json
                              evaluation-<hash>/  model.safetensors, checkpoint.json; per endpoint a record and a picture

Each of these parts also holds manifest.json with its notes and the files' hashes. A part appears by one rename and
disappears by one, so no reader takes half of it for the whole. Two processes that store the same part store the same
content. A trial copies what it goes on from (trial/stage_client.py) and does not depend on the stages afterwards.
"""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ambient_sweep.config import Config
from ambient_sweep.errors import UserError
from ambient_sweep.object_store import fetch_folder, stored_sizes
from ambient_sweep.stages.keys import FOLDER, data_key, images_of, prefix_of
from ambient_sweep.storage import new_folder, remove, remove_whole, sha256
from ambient_sweep.training.files import DamagedFile, read_notes, write_notes

Notes = dict[str, Any]

STATE, MANIFEST = "state", "manifest"
LEFTOVER_SECONDS = 3600.0  # after which a temporary folder belongs to a killed process
SELF_CHECKED = ".safetensors"  # whose hash stands in the JSON beside them, which readers check
RACES = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)  # another process writes or removes the same part


class Gone(UserError):
    """The part does not exist, or no longer."""


class Stages:
    """The stages of the sweep in `root`, which all processes of all nodes see; `every_length` as in `fork_points`."""

    def __init__(self, root: Path, *, every_length: bool = False) -> None:
        self.root, self.folder, self.every_length = root, root / FOLDER, every_length

    def states(self) -> set[str]:
        """The keys of all stored states."""
        return {key for key in self.stored() if self.has(key, STATE)}

    def stored(self) -> set[str]:
        """All keys. Raises OSError where the folder cannot be read."""
        fetch_folder(self.folder, f"/{MANIFEST}.json")
        try:
            return {name for name in os.listdir(self.folder) if not name.startswith(".")}
        except FileNotFoundError:
            return set()

    def has(self, key: str, part: str) -> bool:
        return os.path.exists(self.folder / key / part / f"{MANIFEST}.json")

    def bytes(self) -> int:
        """The size of all parts, counting files that trials hold as well."""
        total = sum(stored_sizes(self.folder))
        for folder, _, names in os.walk(self.folder):
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
            with new_folder(self.folder / key / part) as aside:
                for name, file in files.items():
                    _link(file, aside / name)
                hashes = {name: sha256(aside / name) for name in sorted(files) if not name.endswith(SELF_CHECKED)}
                write_notes(aside, MANIFEST, notes | {"files": hashes})
        except OSError as error:
            if error.errno in RACES and all(file.exists() for file in files.values()):
                return False
            raise
        return True

    @contextlib.contextmanager
    def reading(self, key: str, part: str) -> Iterator[tuple[Path, Notes]]:
        """The folder of a part whose files are as they were written, and its notes.

        Raises Gone where there is none, or where it is removed while the block reads it, and DamagedFile.
        """
        place = self.folder / key / part
        fetch_folder(place)
        before = _identity(place)
        try:
            yield place, _checked(place)
        except (UserError, FileNotFoundError):
            if before is None or _identity(place) != before:
                raise Gone(f"{place}: does not exist") from None
            raise

    def remove(self, key: str, part: str | None = None) -> bool:
        """Removes a part, or all of a key; False where there is none."""
        try:
            removed = remove_whole(self.folder / key / (part or ""))
        except OSError as error:
            if error.errno not in RACES:
                raise
            removed = True
        with contextlib.suppress(OSError):  # gone, or another part remains
            (self.folder / key).rmdir()
        return removed

    def collect(self, needed_by: Iterable[Config]) -> list[str]:
        """Removes all keys but those of states that these configs come to in training; returns the removed ones.

        Raises UserError where the sweep's data.json cannot be read.
        """
        self.remove_leftovers()
        stored, data = self.stored(), data_key(self.root)
        positions = {images_of(key) for key in stored}
        needed = {prefix_of(config).key(images, data) for config in needed_by for images in positions}
        return [key for key in sorted(stored - needed) if self.remove(key)]

    def remove_leftovers(self) -> None:
        """Removes what killed processes left half written or half removed."""
        for folder in (self.folder, *(self.folder / key for key in self.stored())):
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
    notes = read_notes(place, MANIFEST)
    for name, expected in notes["files"].items():
        try:
            if sha256(place / name) != expected:
                raise DamagedFile(f"{place / name}: damaged (its sha256 is not the one in {MANIFEST}.json)")
        except OSError as error:
            raise DamagedFile(f"{place / name}: cannot be read ({error.strerror})") from None
    return notes


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
