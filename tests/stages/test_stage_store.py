"""The store of stages: parts that appear and go whole, whoever reads, writes, removes or dies meanwhile."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ambient_sweep.stages.folder_store import FolderStore
from ambient_sweep.trial.object_store import ObjectStore
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from whole_objects import whole_objects

from ambient_sweep.stages import folder_store as store_module
from ambient_sweep.stages.store import DamagedPart, Gone

KEY, OTHER = "000000320-00aa", "000000640-00bb"
KINDS = {
    "folder": lambda root: FolderStore(root / "stages"),
    "objects": lambda root: ObjectStore(whole_objects(root / "objects"), "bucket/stages"),
    "objects in a tree of files": lambda root: ObjectStore(SubTreeFileSystem(str(root), LocalFileSystem()), "stages"),
}


@pytest.fixture(params=KINDS)
def any_store(request, tmp_path):
    return KINDS[request.param](tmp_path)


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "stages")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "x.json").write_bytes(b"{}")
    (tmp_path / "y.safetensors").write_bytes(b"tensors" * 1000)
    return {"x.json": tmp_path / "x.json", "y.safetensors": tmp_path / "y.safetensors"}


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# -- every store ------------------------------------------------------------------------------------------------------


def test_a_part_is_written_once_and_read_as_it_was(any_store, files):
    store = any_store
    assert store.stored() == set()
    assert store.put(KEY, "state", files, {"n": 1})
    assert not store.put(KEY, "state", files, {"n": 2})
    assert store.put(KEY, "other", {"x.json": files["x.json"]}, {})
    assert store.put(OTHER, "other", {"x.json": files["x.json"]}, {})
    assert store.stored() == store.having("other") == {KEY, OTHER}
    assert store.having("state") == {KEY}
    assert store.notes(KEY, "state") == {"n": 1}
    with store.reading(KEY, "state") as (folder, notes):
        assert notes == {"n": 1}
        assert {name: (folder / name).read_bytes() for name in files} == {n: p.read_bytes() for n, p in files.items()}
    assert store.bytes() > sum(path.stat().st_size for path in files.values())
    assert store.remove(KEY, "other")
    assert store.having("other") == {OTHER}
    assert store.has(KEY, "state")
    assert store.remove(KEY)
    assert not store.remove(KEY)
    assert store.stored() == {OTHER}
    assert store.remove(OTHER, "other")
    assert store.bytes() == 0
    assert files["y.safetensors"].exists()
    with pytest.raises(Gone), store.reading(KEY, "state"):
        pass
    with pytest.raises(Gone):
        store.notes(KEY, "state")


def test_a_failed_write_leaves_nothing_and_names_the_part(any_store, files, tmp_path):
    with pytest.raises(OSError, match=r"No such file") as caught:
        any_store.put(KEY, "state", files | {"z": tmp_path / "missing"}, {})
    assert caught.value.filename.endswith(f"{KEY}/state")
    assert caught.value.strerror == "No such file or directory"
    assert any_store.bytes() == 0
    assert not any_store.has(KEY, "state")


def spoil(store, name, content):
    """Replaces, or removes, the stored file of this name."""
    if isinstance(store, FolderStore):
        (place,) = store.root.rglob(name)
        place.unlink() if content is None else place.write_bytes(content)
        return
    (place,) = [
        info.path
        for info in store._objects()
        if info.path.endswith("." + name.rpartition(".")[2]) and ("/parts/" in info.path) == (name == "manifest.json")
    ]
    store.filesystem.delete_file(place)
    if content is not None:
        with store.filesystem.open_output_stream(place) as stream:
            stream.write(content)


DAMAGES = {"cut": b"{", "another": b'{"a": 1}', "a list": b"[]", "not text": b"\xff\x00"}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "x.json"])
def test_a_part_that_is_not_what_was_written_is_damaged(any_store, files, name, damage):
    any_store.put(KEY, "state", files, {})
    spoil(any_store, name, DAMAGES[damage])
    with (
        pytest.raises(DamagedPart, match=r"\.json: (damaged|cannot be read)") as caught,
        any_store.reading(KEY, "state"),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert any_store.remove(KEY, "state")
    assert any_store.put(KEY, "state", files, {})
    with any_store.reading(KEY, "state"):
        pass


def test_a_part_without_one_of_its_files_is_damaged_and_can_be_put_again(any_store, files):
    any_store.put(KEY, "state", files, {})
    spoil(any_store, "x.json", None)
    with pytest.raises(DamagedPart, match=r"x\.json: missing"), any_store.reading(KEY, "state"):
        pass
    assert not any_store.put(KEY, "state", files, {})
    assert any_store.remove(KEY, "state")
    assert any_store.put(KEY, "state", files, {})
    with any_store.reading(KEY, "state"):
        pass


def test_a_part_without_its_manifest_can_be_put_again(any_store, files):
    any_store.put(KEY, "state", files, {})
    spoil(any_store, "manifest.json", None)
    with pytest.raises((Gone, DamagedPart)), any_store.reading(KEY, "state"):
        pass
    assert any_store.put(KEY, "state", files, {})
    with any_store.reading(KEY, "state"):
        pass


RACER = """
import random, sys
from pathlib import Path
from test_stage_store import KINDS
from ambient_sweep.stages.store import Gone
root, number = Path(sys.argv[1]), int(sys.argv[2])
store, draw = KINDS[sys.argv[3]](root), random.Random(number)
files = {name: root / name for name in ("x.json", "y.safetensors")}
expected = {name: path.read_bytes() for name, path in files.items()}
counts = [0, 0, 0]
for turn in range(150):
    key, action = f"00000032{draw.randrange(2)}-0a", draw.choice(["put", "read", "read", "remove", "part", "sweep"])
    if action == "put":
        counts[0] += store.put(key, "state", files, {"by": number})
    elif action == "read":
        try:
            with store.reading(key, "state") as (folder, notes):
                for _ in range(5):
                    assert {name: (folder / name).read_bytes() for name in files} == expected
                counts[1] += 1
        except Gone:
            pass
    elif action == "sweep":
        store.sweep()
    else:
        counts[2] += store.remove(key, "state" if action == "part" else None)
print(*counts)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_write_read_and_remove_at_once_never_see_half_of_a_part(kind, files, tmp_path):
    """Nothing is damaged, nothing is lost: what was put was removed, but for what is left."""
    store, path = KINDS[kind](tmp_path), {"PYTHONPATH": str(Path(__file__).parent)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(n), kind],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | path,
        )
        for n in range(4)
    ]
    counts = []
    for racer in racers:
        output, errors = racer.communicate(timeout=300)
        assert racer.returncode == 0, errors.decode()
        counts.append([int(word) for word in output.split()])
    put, read, removed = (sum(column) for column in zip(*counts, strict=True))
    left = sum(store.has(key, "state") for key in store.stored())
    assert put > 20
    assert read > 20
    if isinstance(store, FolderStore):
        assert removed - (put - left) >= 0  # a key may be removed that holds nothing any more
        assert not list(store.root.rglob("*.tmp"))
        assert not [p for kind in (".leases", ".removing") for p in (store.root / kind).iterdir()]
    for key in store.stored():
        with store.reading(key, "state") as (folder, _):
            assert {n: (folder / n).read_bytes() for n in files} == {n: p.read_bytes() for n, p in files.items()}


def test_an_empty_store_has_nothing(any_store):
    any_store.sweep()
    assert not any_store.has(KEY, "state")
    assert not any_store.remove(KEY)
    assert (any_store.stored(), any_store.having("state"), any_store.bytes()) == (set(), set(), 0)


# -- folders ----------------------------------------------------------------------------------------------------------


def test_files_are_hard_links_where_there_are_any(store, files):
    store.put(KEY, "state", files, {})
    with store.reading(KEY, "state") as (folder, _):
        assert os.path.samefile(folder / "y.safetensors", files["y.safetensors"])


def test_files_are_copied_where_there_are_no_links(store, files, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    store.put(KEY, "state", files, {})
    with store.reading(KEY, "state") as (folder, _):
        assert (folder / "y.safetensors").read_bytes() == files["y.safetensors"].read_bytes()
        assert not os.path.samefile(folder / "y.safetensors", files["y.safetensors"])


def test_what_is_being_read_stays_unless_its_reader_is_dead(store, files):
    store.put(KEY, "state", files, {})
    with store.reading(KEY, "state"):
        assert not store.remove(KEY)
        assert not store.remove(KEY, "state")
    store.put(OTHER, "state", files, {})
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    leases = store.root / ".leases"
    (leases / f"{OTHER}.{store_module._node()}.{process.pid}.0").touch()
    (leases / f"{KEY}.elsewhere.1.0").touch()
    store.sweep()
    assert [p.name for p in leases.iterdir()] == [f"{KEY}.elsewhere.1.0"]
    assert not store.remove(KEY)
    old = time.time() - 2 * store_module.STALE_SECONDS
    os.utime(leases / f"{KEY}.elsewhere.1.0", (old, old))
    assert store.remove(KEY)
    assert store.remove(OTHER)


def test_what_is_being_removed_is_gone_for_new_readers(store, files):
    store.put(KEY, "state", files, {})
    with store._marked(store_module.REMOVING, KEY), pytest.raises(Gone), store.reading(KEY, "state"):
        pass
    with store.reading(KEY, "state"):
        pass


def test_asides_of_the_living_stay_and_those_of_the_dead_go(store, files):
    store.put(KEY, "state", files, {})
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    mine, dead = store._aside(), store.root / f".{store_module._node()}.{process.pid}.0.tmp"
    for aside in (mine, dead):
        aside.mkdir()
        (aside / "half").touch()
    store.sweep()
    assert mine.exists()
    assert not dead.exists()
