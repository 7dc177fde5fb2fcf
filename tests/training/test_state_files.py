"""The states of a run on disk: damaged ones, those of killed processes, those of other runs."""

import errno
import multiprocessing
import resource
import shutil
import signal
from contextlib import closing

import pytest
import torch
from small_runs import BASE, SHAPE, assert_same_bits, new_state, observations, run

from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.training.files import FORMAT, write_tensors
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import (
    BEGIN_AGAIN,
    TrainState,
    restore_newest,
    save_newest,
    saved_states,
    state_name,
)

CONFIG = build_config(BASE)
SAVES = frozenset({128, 256, 384})


@pytest.fixture
def place(tmp_path):
    """States of a run at 256 and 384 images; the one at 128 is gone by then."""
    state = new_state(CONFIG, observations())
    with closing(train(CONFIG, observations(), state, stops=SAVES)) as records:
        for record in records:
            if record.images in SAVES:
                save_newest(tmp_path / "state", state)
            if record.images == 384:
                break
    return tmp_path / "state"


def names(place):
    return [folder.name for folder in saved_states(place)]


def restored(place):
    """The newest sound state, its name, and the lines for the user."""
    state, lines = new_state(CONFIG, observations()), []
    return state, restore_newest(place, state, lines.append), lines


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 8
    file.write_bytes(content)


def test_the_two_newest_are_kept_and_the_newest_is_taken(place):
    assert names(place) == ["images-000000384", "images-000000256"]
    state, name, lines = restored(place)
    assert (name, state.images, lines) == ("images-000000384", 384, [])
    whole, _ = run(CONFIG, observations())
    run(CONFIG, observations(), state)
    assert_same_bits(whole, state)


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


DAMAGES = {
    "a flipped bit": (lambda f: flip(f / "state.safetensors"), "damaged (its sha256 is not the one in state.json)"),
    "a changed format": (
        lambda f: change(f / "state.json", f'"format": {FORMAT}', '"format": 99'),
        "damaged (its sha256",
    ),
    "an empty folder": (lambda f: [file.unlink() for file in f.iterdir()], "not a readable state ("),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_named_and_the_one_before_it_taken(place, damage):
    spoil, words = DAMAGES[damage]
    spoil(place / "images-000000384")
    state, name, (line,) = restored(place)
    assert name == "images-000000256"
    assert line.startswith(f"state images-000000384: {words}")
    assert line.endswith("; going on from images-000000256")
    assert "\n" not in line
    whole, _ = run(CONFIG, observations())
    run(CONFIG, observations(), state)
    assert_same_bits(whole, state)


def test_where_all_are_damaged_both_are_named_with_what_to_do(place):
    for folder in saved_states(place):
        flip(folder / "state.safetensors")
    with pytest.raises(UserError) as caught:
        restored(place)
    text = str(caught.value)
    assert text.startswith(f"{place}: no state can be read (state images-000000384: damaged")
    assert "state images-000000256: damaged" in text
    assert text.endswith(f"restore one, or remove {place} {BEGIN_AGAIN}")
    shutil.rmtree(place)
    assert restored(place)[1:] == (None, [])


def test_states_of_another_config_or_format_are_refused_and_not_passed_over(place):
    other = TrainState.create(build_config(BASE, {"seed": 1}), SHAPE)
    with pytest.raises(UserError, match="another config"):
        restore_newest(place, other, print)
    meta = {"format": 1, "images": 384, "config": CONFIG.model_dump(mode="json")}
    write_tensors(place / "images-000000384", "state", other.tensors(), meta)
    with pytest.raises(UserError, match=rf"has format 1, this version reads {FORMAT}; remove {place} {BEGIN_AGAIN}"):
        restored(place)


def write_limited(folder, found):
    """Writes more than this process may, as where a disk is full: safetensors tells only in words why it cannot."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_tensors(folder, "state", {"x": torch.zeros(1000)}, {})
    except OSError as error:
        found.put((error.errno, error.filename))


def test_why_tensors_cannot_be_written_is_told_as_the_system_told_it(tmp_path):
    processes = multiprocessing.get_context("spawn")
    found = processes.Queue()
    writing = processes.Process(target=write_limited, args=(tmp_path / "state", found))
    writing.start()
    assert found.get(timeout=60) == (errno.EFBIG, str(tmp_path / "state"))
    writing.join()
    assert not list(tmp_path.iterdir())


def test_states_are_ordered_by_images(tmp_path):
    order = [20_000_000_000, 1_000_000_000, 64, 0]
    for name in [*map(state_name, reversed(order)), "images-elsewhere"]:
        (tmp_path / name).mkdir()
    assert names(tmp_path) == [*map(state_name, order)]


def test_a_file_in_the_place_of_a_state_is_a_damaged_state_and_leftovers_go(place):
    left = place / ".images-000000512.4711.tmp"
    left.write_bytes(b"half")
    (place / "images-000000400").write_bytes(b"not a folder")
    state, name, (line,) = restored(place)
    assert name == "images-000000384"
    assert line.startswith("state images-000000400: ")
    assert not left.exists()
    save_newest(place, state)
    assert names(place) == ["images-000000384", "images-000000256"]
