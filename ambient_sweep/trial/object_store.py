"""Stages in an object store: S3, Google Cloud Storage, Azure, or whatever pyarrow has a file system for.

<prefix>/parts/<key>/<part>/<upload>.json   a part: sizes and hashes of its files, and its notes
<prefix>/files/<upload>/<name>              the files

There is no rename, no link and no lock. An object appears whole, when its upload ends; the JSON is written last, and so does
the part. Of two that write the same part at once both may end up there, of equal content: readers take one of them. Removal
begins with the JSON. A reader works on a copy, so what it reads may be removed meanwhile; who is still copying then finds
the part gone. What a process was uploading when it was killed goes hours later, with a `sweep`.
"""

import contextlib
import errno
import functools
import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from ambient_sweep.errors import UserError
from ambient_sweep.trial.folder_store import FolderStore
from ambient_sweep.trial.store import DamagedPart, Gone, Notes, Store, digest

FORMAT = 1
PARTS, FILES = "parts", "files"
ABANDONED_SECONDS = 6 * 3600.0  # after which files that belong to no part count as left by a dead process
CHUNK = 8 << 20
FAILURES = (OSError, pa.ArrowException)  # of a file system


def open_store(uri: str, root: Path) -> Store:
    """The store of the sweep in `root` under `uri`: s3://bucket/folder, gs://, abfs://, or a folder's path.

    It lies in a folder of the sweep's name there; a relative path begins at `root`. Credentials are those that pyarrow
    finds, as in the environment. Raises UserError, one line, where it cannot be opened.
    """
    if "://" not in uri:
        return FolderStore(root / uri / root.name)
    filesystem, path = _opened(uri)
    if isinstance(filesystem, LocalFileSystem):
        return FolderStore(Path(path) / root.name)
    return ObjectStore(filesystem, f"{path}/{root.name}")


class ObjectStore:
    """The store as objects under `prefix` of a file system, of which listing, reading, writing and deleting are used."""

    def __init__(self, filesystem: FileSystem, prefix: str) -> None:
        self.filesystem, self.prefix = filesystem, prefix.strip("/")

    def stored(self) -> set[str]:
        return {key for key, _, _ in self._uploads()}

    def having(self, part: str) -> set[str]:
        return {key for key, each, _ in self._uploads() if each == part}

    def has(self, key: str, part: str) -> bool:
        return bool(self._uploads(key, part))

    def bytes(self) -> int:
        with _named(self.prefix):
            return sum(info.size for info in self._objects())

    def put(self, key: str, part: str, files: Mapping[str, Path], notes: Notes) -> bool:
        """Raises OSError that names the part where it cannot be written."""
        upload = uuid.uuid4().hex
        with _named(self._path(PARTS, key, part)):
            if self.has(key, part):
                return False
            try:
                sent = {name: self._send(file, self._path(FILES, upload, name)) for name, file in sorted(files.items())}
                late = self.has(key, part)
            except FAILURES:
                with contextlib.suppress(*FAILURES):
                    self._drop(FILES, upload)
                raise
            if late:
                self._drop(FILES, upload)
                return False
            manifest = {"format": FORMAT, "files": sent, "notes": notes}
            text = json.dumps(manifest | {"manifest_sha256": digest(manifest)}, indent=1)
            with self._writing(self._path(PARTS, key, part, f"{upload}.json")) as stream:
                stream.write(text.encode())
            return True

    @contextlib.contextmanager
    def reading(self, key: str, part: str) -> Iterator[tuple[Path, Notes]]:
        upload, manifest = self._manifest(key, part)
        with tempfile.TemporaryDirectory(prefix="stage-") as name:
            folder = Path(name)
            with _named(self._path(PARTS, key, part)):
                for file, told in manifest["files"].items():
                    place = self._path(FILES, upload, file)
                    problem = self._fetch(place, folder / file, told)
                    if problem is not None and not self._is_there(PARTS, key, part, f"{upload}.json"):
                        raise Gone(f"{self._path(PARTS, key, part)}: was removed")
                    if problem is not None:
                        raise DamagedPart(f"{place}: {problem}")
            yield folder, manifest["notes"]

    def notes(self, key: str, part: str) -> Notes:
        notes: Notes = self._manifest(key, part)[1]["notes"]
        return notes

    def remove(self, key: str, part: str | None = None) -> bool:
        """Of what another is putting there meanwhile, files may be left, which a later `sweep` removes."""
        with _named(self._path(PARTS, key, part or "")):
            uploads = self._uploads(key, part)
            if uploads:
                self._drop(PARTS, key, *([] if part is None else [part]))
            for _, _, upload in uploads:
                self._drop(FILES, upload)
        return bool(uploads)

    def sweep(self) -> None:
        with _named(self.prefix):
            ages: dict[str, float] = {}
            for info in self._objects(FILES):
                upload, age = info.path.split("/")[-2], time.time() - info.mtime.timestamp()
                ages[upload] = min(age, ages.get(upload, age))
            needed = {upload for _, _, upload in self._uploads()}
            for upload, age in ages.items():
                if age > ABANDONED_SECONDS and upload not in needed:
                    self._drop(FILES, upload)

    # -- parts ------------------------------------------------------------------------------------------------------

    def _uploads(self, *of: str | None) -> list[tuple[str, str, str]]:
        """(key, part, upload) of all that is whole, of a key, or of one of its parts."""
        path = [name for name in of if name is not None]
        with _named(self._path(PARTS, *path)):
            found = (info.path.split("/")[-3:] for info in self._objects(PARTS, *path))
            return sorted((key, part, name.removesuffix(".json")) for key, part, name in found)

    def _manifest(self, key: str, part: str) -> tuple[str, dict[str, Any]]:
        """The upload to read, and what it says of itself. Raises Gone or DamagedPart."""
        place = self._path(PARTS, key, part)
        with _named(place):
            uploads = self._uploads(key, part)
            if not uploads:
                raise Gone(f"{place}: is not there")
            upload, name = uploads[0][2], f"{uploads[0][2]}.json"
            try:
                with self.filesystem.open_input_stream(f"{place}/{name}", compression=None) as stream:
                    text = stream.read()
            except FAILURES:
                if not self._is_there(PARTS, key, part, name):
                    raise Gone(f"{place}: was removed") from None
                raise
        try:
            manifest = json.loads(text)
            if manifest.pop("manifest_sha256") != digest(manifest) or manifest["format"] != FORMAT:
                raise DamagedPart(f"{place}/{name}: damaged, or of another version")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedPart(f"{place}/{name}: cannot be read ({error})") from None
        return upload, manifest

    # -- objects ----------------------------------------------------------------------------------------------------

    def _path(self, *names: str) -> str:
        return "/".join([self.prefix, *filter(None, names)])

    def _objects(self, *names: str) -> list[FileInfo]:
        """All objects in a folder and below."""
        selector = FileSelector(self._path(*names), recursive=True, allow_not_found=True)
        return [info for info in self.filesystem.get_file_info(selector) if info.type == FileType.File]

    def _is_there(self, *names: str) -> bool:
        return bool(self.filesystem.get_file_info(self._path(*names)).type == FileType.File)

    def _drop(self, *names: str) -> None:
        """Deletes the objects in a folder; another may be at it too."""
        try:
            self.filesystem.delete_dir(self._path(*names))
        except FileNotFoundError:
            pass
        except OSError as error:  # of a file system with folders: another has written into this one meanwhile
            if error.errno != errno.ENOTEMPTY:
                raise

    def _writing(self, path: str) -> Any:
        """A stream whose end makes the object appear. Folders are made where a file system has need of them."""
        try:
            return self.filesystem.open_output_stream(path, compression=None)
        except FileNotFoundError:
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            return self.filesystem.open_output_stream(path, compression=None)

    def _send(self, file: Path, path: str) -> dict[str, Any]:
        """Copies a file there; its size and hash."""
        hashed, size = hashlib.sha256(), 0
        with file.open("rb") as source, self._writing(path) as stream:
            while piece := source.read(CHUNK):
                stream.write(piece)
                hashed.update(piece)
                size += len(piece)
        return {"size": size, "sha256": hashed.hexdigest()}

    def _fetch(self, path: str, file: Path, told: Mapping[str, Any]) -> str | None:
        """Copies an object here; says what is wrong with it, if anything is."""
        hashed, size = hashlib.sha256(), 0
        try:
            with self.filesystem.open_input_stream(path, compression=None) as stream, file.open("wb") as copy:
                while piece := stream.read(CHUNK):
                    copy.write(piece)
                    hashed.update(piece)
                    size += len(piece)
        except FAILURES:
            if self.filesystem.get_file_info(path).type == FileType.File:
                raise
            return "missing"
        sound = (size, hashed.hexdigest()) == (told["size"], told["sha256"])
        return None if sound else "damaged (its size or sha256 is not the one that was noted)"


@functools.lru_cache(maxsize=16)
def _opened(uri: str) -> tuple[FileSystem, str]:
    """The file system and the path in it, once it has been listed. Raises UserError."""
    place, _, _ = uri.partition("?")
    if ":" in place.partition("://")[2].rpartition("@")[0]:
        raise UserError("search.stages_at: holds a password; leave it to the environment, as AWS_SECRET_ACCESS_KEY")
    try:
        filesystem, path = FileSystem.from_uri(uri)
        if isinstance(filesystem, LocalFileSystem):
            return filesystem, path
        path = path.strip("/")
        bucket, _, _ = path.partition("/")
        if not bucket:
            raise UserError(f"{place}: names no bucket; give one, as in s3://bucket/folder")
        found = filesystem.get_file_info(FileSelector(path, allow_not_found=True))
        if not found and filesystem.get_file_info(bucket).type == FileType.NotFound:
            raise UserError(f"{place}: there is no bucket {bucket!r}; make it first, or name another")
    except FAILURES as error:
        raise UserError(f"{place}: cannot be opened ({_words(error)})") from None
    return filesystem, path


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Failures of a file system as OSErrors that name `place`."""
    try:
        yield
    except FAILURES as error:
        number = error.errno if isinstance(error, OSError) else None
        raise OSError(number or errno.EIO, _words(error), place) from error


def _words(error: BaseException) -> str:
    """What went wrong, in a line."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words.strip().partition("\n")[0]
