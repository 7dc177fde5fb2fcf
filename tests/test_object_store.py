"""The store of stages as objects: what dies while it uploads, what is removed while it is read, what cannot be opened."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow.fs import PyFileSystem
from whole_objects import Objects, whole_objects

from ambient_sweep.errors import UserError
from ambient_sweep.trial import Stages
from ambient_sweep.trial import object_store as module
from ambient_sweep.trial.folder_store import FolderStore
from ambient_sweep.trial.object_store import ObjectStore, open_store
from ambient_sweep.trial.store import DamagedPart, Gone

KEY, OTHER = "000000320-00aa", "000000640-00bb"


def opened(root):
    return ObjectStore(whole_objects(root / "store"), "bucket/stages")


@pytest.fixture
def store(tmp_path):
    return opened(tmp_path)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "x.json").write_bytes(b"{}")
    (tmp_path / "y.safetensors").write_bytes(b"tensors" * 1000)
    return {"x.json": tmp_path / "x.json", "y.safetensors": tmp_path / "y.safetensors"}


def content(store, key=KEY):
    with store.reading(key, "state") as (folder, notes):
        return {path.name: path.read_bytes() for path in folder.iterdir()}, notes


def whole(files):
    return {name: path.read_bytes() for name, path in files.items()}


def objects(store):
    return sorted(info.path.removeprefix(f"{store.prefix}/").partition("/")[0] for info in store._objects())


def age(root, seconds):
    """Makes all objects older."""
    for folder, _, names in os.walk(root / "store" / "objects"):
        for name in names:
            path = Path(folder, name)
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


PUTTING = """
import os, signal, sys
from pathlib import Path
from test_object_store import opened
from ambient_sweep.trial import object_store
from whole_objects import Upload
root = Path(sys.argv[1])
from sudden_death import die, nth
{place}
files = {{name: root / name for name in ("x.json", "y.safetensors")}}
for number in range({times}):
    opened(root).put(f"{{number:09d}}-00aa", "state", files, {{"by": os.getpid()}})
"""


def process(root, place="", times=1):
    return subprocess.Popen(
        [sys.executable, "-c", PUTTING.format(place=place, times=times), str(root)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )


DEATHS = {  # where, and the objects left
    "before the files": ('nth(object_store.ObjectStore, "_send", 1)', []),
    "in the middle of a file": ('nth(Upload, "write", 2)', ["files"]),
    "at the end of a file": ('nth(Upload, "close", 2)', ["files"]),
    "between the files": ('nth(object_store.ObjectStore, "_send", 1, before=False)', ["files"]),
    "before the manifest": ('nth(object_store, "digest", 1)', ["files", "files"]),
    "within the manifest": ('nth(Upload, "write", 3, before=False)', ["files", "files"]),
    "after the manifest": ('nth(Upload, "close", 3, before=False)', ["files", "files", "parts"]),
}


@pytest.mark.parametrize("when", DEATHS)
def test_a_part_of_which_the_writer_was_killed_is_not_there_or_whole(store, files, tmp_path, when):
    place, left = DEATHS[when]
    writer = process(tmp_path, place)
    _, errors = writer.communicate()
    assert writer.returncode == -signal.SIGKILL, errors.decode()
    assert objects(store) == left
    key, done = "000000000-00aa", when == "after the manifest"
    assert store.stored() == ({key} if done else set())
    assert store.has(key, "state") == done
    assert store.put(key, "state", files, {}) != done
    assert content(store, key)[0] == whole(files)
    store.sweep()
    assert len(objects(store)) == (3 if done else len(left) + 3)  # the young may be under way
    age(tmp_path, module.ABANDONED_SECONDS + 60)
    store.sweep()
    assert objects(store) == ["files", "files", "parts"]
    assert content(store, key)[0] == whole(files)


def test_processes_that_put_the_same_part_leave_one_or_several_of_equal_content(store, files, tmp_path):
    writers = [process(tmp_path, times=20) for _ in range(3)]
    for writer in writers:
        _, errors = writer.communicate(timeout=300)
        assert writer.returncode == 0, errors.decode()
    keys = {f"{number:09d}-00aa" for number in range(20)}
    assert store.stored() == keys
    for key in keys:
        read, notes = content(store, key)
        assert read == whole(files)
        assert notes["by"] in {writer.pid for writer in writers}
        assert store.remove(key)
    assert store.bytes() == 0  # what several had put, too


def test_of_two_that_put_at_once_the_later_gives_way_or_both_are_whole(store, files, monkeypatch):
    has, calls = ObjectStore.has, []

    def late(self, key, part):
        calls.append(1)
        if len(calls) == 2:  # the files are uploaded; the other's manifest comes just before, or just after this look
            assert before or not has(self, key, part)
            if before:
                opened_again.put(key, "state", files, {"by": "other"})
        found = has(self, key, part)
        if len(calls) == 2 and not before:
            opened_again.put(key, "state", files, {"by": "other"})
        return found

    opened_again = ObjectStore(store.filesystem, store.prefix)
    for before in (True, False):
        calls.clear()
        monkeypatch.setattr(ObjectStore, "has", late)
        opened_again.has = has.__get__(opened_again)
        assert store.put(KEY, "state", files, {"by": "this"}) != before
        monkeypatch.undo()
        assert objects(store).count("parts") == (1 if before else 2)
        assert content(store)[0] == whole(files)
        assert store.remove(KEY)
        assert objects(store) == []


def test_what_is_being_read_may_be_removed(store, files):
    store.put(KEY, "state", files, {})
    with store.reading(KEY, "state") as (folder, _):
        assert store.remove(KEY)
        with pytest.raises(Gone), store.reading(KEY, "state"):
            pass
        assert whole(files) == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not folder.exists()


@pytest.mark.parametrize("file", ["x.json", "y.safetensors"])
def test_what_is_removed_while_it_is_copied_is_gone(store, files, monkeypatch, file):
    store.put(KEY, "state", files, {})
    fetch = ObjectStore._fetch

    def removed_first(self, path, place, told):
        if path.endswith(file):
            assert store.remove(KEY)
        return fetch(self, path, place, told)

    monkeypatch.setattr(ObjectStore, "_fetch", removed_first)
    with pytest.raises(Gone, match="was removed"), store.reading(KEY, "state"):
        pass
    monkeypatch.undo()
    store.put(KEY, "state", files, {})
    uploads, calls = ObjectStore._uploads, []

    def removed_after(self, *of):
        found = uploads(self, *of)
        if not calls:
            calls.append(1)
            store.remove(KEY)
        return found

    monkeypatch.setattr(ObjectStore, "_uploads", removed_after)
    with pytest.raises(Gone, match="was removed"), store.reading(KEY, "state"):
        pass


class Failing(Objects):
    """Fails from some call on, as a network does."""

    left = 1 << 30

    def _call(self):
        self.left -= 1
        if self.left < 0:
            raise OSError("connection lost\nand more of it")

    def get_file_info(self, paths):
        self._call()
        return super().get_file_info(paths)

    def get_file_info_selector(self, selector):
        self._call()
        return super().get_file_info_selector(selector)

    def open_input_stream(self, path):
        self._call()
        return super().open_input_stream(path)

    def open_output_stream(self, path, metadata):
        self._call()
        return super().open_output_stream(path, metadata)

    def delete_dir(self, path):
        self._call()
        super().delete_dir(path)


ASKED = {
    "stored": lambda store, files: store.stored(),
    "having": lambda store, files: store.having("state"),
    "has": lambda store, files: store.has(KEY, "state"),
    "bytes": lambda store, files: store.bytes(),
    "notes": lambda store, files: store.notes(KEY, "state"),
    "read": lambda store, files: content(store),
    "put": lambda store, files: store.put(OTHER, "state", files, {}),
    "remove": lambda store, files: store.remove(KEY),
    "sweep": lambda store, files: store.sweep(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_failure_at_any_call_is_told_in_a_line_and_leaves_no_half_part(files, tmp_path, asked):
    handler, ask = Failing(tmp_path / "store"), ASKED[asked]
    store = ObjectStore(PyFileSystem(handler), "bucket/stages")
    store.put(KEY, "state", files, {})
    for calls in range(12):
        handler.left = calls
        try:
            ask(store, files)
        except OSError as error:
            told = error
        else:
            break
        assert told.strerror == "connection lost"
        assert told.filename.startswith("bucket/stages")
        handler.left = 1 << 30
        assert store.having("state") <= {KEY, OTHER}
        if asked == "remove":
            store.put(KEY, "state", files, {})
        for key in store.stored():
            assert content(store, key)[0] == whole(files)
    assert 1 <= calls < 11


def test_a_removed_file_of_a_part_is_damage_not_removal(store, files):
    store.put(KEY, "state", files, {})
    (path,) = [info.path for info in store._objects() if info.path.endswith("y.safetensors")]
    store.filesystem.delete_file(path)
    with pytest.raises(DamagedPart, match="missing"):
        content(store)


# -- opening ----------------------------------------------------------------------------------------------------------


def test_folders_are_opened_as_folders(tmp_path):
    root = tmp_path / "runs" / "digits"
    for uri, expected in {
        "../stages": root / "../stages/digits",
        str(tmp_path / "shared"): tmp_path / "shared/digits",
        f"file://{tmp_path}/shared": tmp_path / "shared/digits",
    }.items():
        store = open_store(uri, root)
        assert isinstance(store, FolderStore)
        assert store.root == Stages.open(root, uri).store.root == expected
    assert Stages.open(root).store.root == root / "stages"


def test_object_stores_are_opened_under_the_sweeps_name(tmp_path, files, monkeypatch):
    there, asked = whole_objects(tmp_path / "store"), []
    opens = SimpleNamespace(from_uri=lambda uri: asked.append(uri) or (there, "bucket/folder/"))
    monkeypatch.setattr(module, "FileSystem", opens)
    module._opened.cache_clear()
    with there.open_output_stream("bucket/another") as stream:
        stream.write(b"")
    store = open_store("s3://bucket/folder/", Path("runs/digits"))
    assert isinstance(store, ObjectStore)
    assert store.put(KEY, "state", files, {})
    assert store._objects()[0].path.startswith("bucket/folder/digits/")
    assert not open_store("s3://bucket/folder/", Path("runs/other")).has(KEY, "state")
    assert open_store("s3://bucket/folder/", Path("runs/digits")).has(KEY, "state")
    assert asked == ["s3://bucket/folder/"]  # opened once in a process


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("nope://bucket/folder", r"^nope://bucket/folder: cannot be opened \(.*nope"),
        ("mock://", "names no bucket; give one, as in s3://bucket/folder"),
        ("s3://", "names no bucket"),
        ("s3:///folder", "^s3:///folder: cannot be opened"),
        ("s3://id:secret@bucket/folder", "leave it to the environment, as AWS_SECRET_ACCESS_KEY"),
        ("mock:///none/folder", "there is no bucket 'none'; make it first, or name another"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_line(uri, words):
    with pytest.raises(UserError, match=words) as caught:
        open_store(uri, Path("runs/digits"))
    assert "\n" not in str(caught.value)
    assert "secret@" not in str(caught.value)
