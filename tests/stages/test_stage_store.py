"""The store of stages: parts that appear and go whole, whoever reads, writes, removes or dies meanwhile."""

import os
import subprocess
import sys

import pytest

from ambient_sweep.stages import stages as stages_module
from ambient_sweep.stages.stages import LEFTOVER_SECONDS, Gone, Stages
from ambient_sweep.training.files import DamagedFile

KEY, OTHER = "000000320-00aa", "000000640-00bb"


@pytest.fixture
def store(tmp_path):
    return Stages(tmp_path)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "x.json").write_bytes(b"{}")
    (tmp_path / "y.safetensors").write_bytes(b"tensors" * 1000)
    return {"x.json": tmp_path / "x.json", "y.safetensors": tmp_path / "y.safetensors"}


def read(store, files):
    with store.reading(KEY, "state") as (folder, notes):
        assert {name: (folder / name).read_bytes() for name in files} == {n: p.read_bytes() for n, p in files.items()}
    return folder, notes


def test_a_part_is_written_once_and_read_as_it_was(store, files):
    assert (store.stored(), store.bytes(), store.remove(KEY)) == (set(), 0, False)
    assert store.put(KEY, "state", files, {"n": 1})
    assert not store.put(KEY, "state", files, {"n": 2})
    assert store.put(KEY, "other", {"x.json": files["x.json"]}, {})
    assert store.put(OTHER, "other", {"x.json": files["x.json"]}, {})
    assert store.stored() == {KEY, OTHER}
    assert [store.has(key, "state") for key in (KEY, OTHER)] == [True, False]
    folder, notes = read(store, files)
    assert notes["n"] == 1
    assert os.path.samefile(folder / "y.safetensors", files["y.safetensors"]), "a hard link"
    assert store.bytes() > sum(path.stat().st_size for path in files.values())
    assert store.remove(KEY, "other")
    assert [store.has(KEY, part) for part in ("other", "state")] == [False, True]
    assert store.remove(KEY)
    assert not store.remove(KEY)
    assert store.remove(OTHER, "other")
    assert (store.stored(), store.bytes()) == (set(), 0)
    assert files["y.safetensors"].exists()
    with pytest.raises(Gone):
        read(store, files)


def test_files_are_copied_where_there_are_no_links(store, files, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    store.put(KEY, "state", files, {})
    folder, _ = read(store, files)
    assert not os.path.samefile(folder / "y.safetensors", files["y.safetensors"])


def test_a_failed_write_leaves_nothing_and_names_the_part(store, files, tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory") as caught:
        store.put(KEY, "state", files | {"z": tmp_path / "missing"}, {})
    assert caught.value.filename.endswith(f"{KEY}/state")
    assert not store.has(KEY, "state")
    assert store.bytes() == 0


@pytest.mark.parametrize("damage", [b"{", b'{"a": 1}', b"[]", b"\xff\x00", None], ids=str)
@pytest.mark.parametrize("name", ["manifest.json", "x.json"])
def test_a_part_that_is_not_what_was_written_is_damaged_and_can_be_put_again(store, files, name, damage):
    store.put(KEY, "state", files, {})
    (place,) = store.folder.rglob(name)
    place.unlink()  # a hard link
    if damage is not None:
        place.write_bytes(damage)
    with pytest.raises(DamagedFile, match=r"\.json: (damaged|cannot be read)|not a readable manifest") as caught:
        read(store, files)
    assert "\n" not in str(caught.value)
    if store.has(KEY, "state"):  # else nobody takes it for a part
        assert not store.put(KEY, "state", files, {})
        assert store.remove(KEY, "state")
    (store.root / "x.json").write_bytes(b"{}")
    assert store.put(KEY, "state", files, {})
    read(store, files)


def test_a_reader_whose_part_is_removed_or_replaced_is_told_so(store, files):
    for again in (False, True):
        store.put(KEY, "state", files, {})
        with pytest.raises(Gone):
            read_while_removed(store, files, again)


def read_while_removed(store, files, again):
    with store.reading(KEY, "state") as (folder, _):
        store.remove(KEY)
        if again:
            store.put(KEY, "state", {"x.json": files["x.json"]}, {})
        (folder / "y.safetensors").read_bytes()


RACER = """
import random, sys
from pathlib import Path
from ambient_sweep.stages import stages as stages_module
from ambient_sweep.stages.stages import Gone, Stages
root, number = Path(sys.argv[1]), int(sys.argv[2])
store, draw = Stages(root), random.Random(number)
files = {name: root / name for name in ("x.json", "y.safetensors")}
expected = {name: path.read_bytes() for name, path in files.items()}
puts = reads = 0
for turn in range(150):
    key, action = f"00000032{draw.randrange(2)}-0a", draw.choice(["put", "read", "read", "remove", "part", "leftovers"])
    if action == "put":
        puts += store.put(key, "state", files, {"by": number})
    elif action == "read":
        try:
            with store.reading(key, "state") as (folder, notes):
                for _ in range(5):
                    assert {name: (folder / name).read_bytes() for name in files} == expected
                reads += 1
        except Gone:
            pass
    elif action == "leftovers":
        store.remove_leftovers()
    else:
        store.remove(key, "state" if action == "part" else None)
print(puts, reads)
"""


def test_processes_that_write_read_and_remove_at_once_never_see_half_of_a_part(store, files, tmp_path, monkeypatch):
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    racers = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]  # fmt: skip
    counts = []
    for racer in racers:
        output, errors = racer.communicate(timeout=300)
        assert racer.returncode == 0, errors
        counts.append([int(word) for word in output.split()])
    assert min(sum(column) for column in zip(*counts, strict=True)) > 20
    monkeypatch.setattr(stages_module, "LEFTOVER_SECONDS", -1)
    store.remove_leftovers()
    assert not list(store.folder.rglob("*.tmp"))
    for key in store.stored():
        if store.has(key, "state"):
            with store.reading(key, "state"):
                pass


def test_only_old_leftovers_go(store, files):
    store.put(KEY, "state", files, {})
    new, old, older = (store.folder / f"{place}.{n}.tmp" for n, place in enumerate(("", "", f"{KEY}/")))
    for aside in (new, old, older):
        aside.mkdir()
        (aside / "half").touch()
    for aside in (old, older):
        os.utime(aside, (0, aside.stat().st_mtime - LEFTOVER_SECONDS - 1))
    store.remove_leftovers()
    assert [aside.exists() for aside in (new, old, older)] == [True, False, False]
    read(store, files)
