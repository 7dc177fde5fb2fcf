"""An object store for tests, in a folder: objects appear whole, when their stream is closed, and there is nothing else.

No rename, no copy, no appending, no folders: a folder is there while there are objects in it.
"""

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem


class Upload:
    """What is written is kept aside, out of sight."""

    def __init__(self, aside: Path, place: Path) -> None:
        self.aside, self.place, self.closed = aside, place, False
        self.stream = aside.open("wb")

    def write(self, data: bytes) -> int:
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()

    def tell(self) -> int:
        return self.stream.tell()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.stream.close()
            self.place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.aside, self.place)


class Objects(FileSystemHandler):
    def __init__(self, root: Path) -> None:
        self.root, self.asides = root / "objects", root / "asides"
        self.root.mkdir(parents=True, exist_ok=True)
        self.asides.mkdir(exist_ok=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objects) and self.root == other.root

    def get_type_name(self) -> str:
        return "objects"

    def normalize_path(self, path: str) -> str:
        return path

    def _below(self, folder: Path) -> list[Path]:
        return [Path(at) / name for at, _, names in os.walk(folder) for name in names]

    def _info(self, path: str) -> FileInfo:
        place = self.root / path
        try:
            if place.is_dir():
                return FileInfo(path, FileType.Directory if self._below(place) else FileType.NotFound)
            status = place.stat()
        except FileNotFoundError:
            return FileInfo(path, FileType.NotFound)
        return FileInfo(path, FileType.File, size=status.st_size, mtime=datetime.fromtimestamp(status.st_mtime, UTC))

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        assert selector.allow_not_found
        base = self.root / selector.base_dir
        found = set()
        for file in self._below(base):
            parts = file.relative_to(base).parts
            depth = len(parts) if selector.recursive else 1
            found |= {"/".join((selector.base_dir, *parts[: n + 1])) for n in range(depth)}
        infos = [self._info(path) for path in sorted(found)]
        return [info for info in infos if info.type != FileType.NotFound]

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return pa.PythonFile((self.root / path).open("rb"), mode="r")

    def open_input_file(self, path: str) -> pa.PythonFile:
        return self.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: object) -> pa.PythonFile:
        return pa.PythonFile(Upload(self.asides / uuid.uuid4().hex, self.root / path), mode="w")

    def delete_file(self, path: str) -> None:
        (self.root / path).unlink()

    def delete_dir(self, path: str) -> None:
        files = self._below(self.root / path)
        if not files:
            raise FileNotFoundError(2, "no such folder", path)
        for file in files:
            file.unlink(missing_ok=True)

    def refuse(self, *arguments: object, **options: object) -> None:
        raise NotImplementedError("an object store has nothing of the kind")

    create_dir = delete_dir_contents = delete_root_dir_contents = refuse
    copy_file = move = open_append_stream = refuse


def whole_objects(root: Path) -> PyFileSystem:
    """The file system of the store in `root`; any process may open it."""
    return PyFileSystem(Objects(root))
