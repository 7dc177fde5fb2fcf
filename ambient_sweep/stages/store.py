"""What stages ask of a store: parts that never change, each written all or nothing, and read with checksums.

`folder_store.FolderStore` is a folder that all nodes see, `object_store.ObjectStore` lies in S3 and the like.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from ambient_sweep.errors import UserError

Notes = dict[str, Any]


class Gone(UserError):
    """The part is not there, or not any more."""


class DamagedPart(UserError):
    """A file of the part is missing, or not what was written."""


class Store(Protocol):
    """Parts under keys. A part is a few files that are written once, together, and its notes.

    Each raises OSError, with `filename` and `strerror`, where the storage fails.
    """

    def stored(self) -> set[str]:
        """All keys under which there is a part."""

    def having(self, part: str) -> set[str]:
        """All keys under which there is this part."""

    def has(self, key: str, part: str) -> bool:
        """Whether a part is there."""

    def put(self, key: str, part: str, files: Mapping[str, Path], notes: Notes) -> bool:
        """Stores copies of `files` by name, all or nothing; False where the part is there already."""

    def reading(self, key: str, part: str) -> AbstractContextManager[tuple[Path, Notes]]:
        """A folder with the part's checked files, which stays there meanwhile, and its notes.

        Raises Gone where there is none, DamagedPart for one that is not what was written.
        """

    def notes(self, key: str, part: str) -> Notes:
        """Its notes alone. Raises as `reading` does."""

    def remove(self, key: str, part: str | None = None) -> bool:
        """Removes a part, or all of a key; False where it is not there, or stays because it is being read."""

    def sweep(self) -> None:
        """Removes what processes that are dead left half written or marked as being read."""

    def bytes(self) -> int:
        """What all parts take."""


def digest(manifest: Notes) -> str:
    """The hash that a manifest names itself by."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
