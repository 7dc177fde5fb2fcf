"""What a run survives: damaged states, killed processes, losses gone wrong."""

import os
import shutil
from contextlib import closing

import pytest
from small_runs import BASE, SHAPE, assert_same_bits, new_state, observations, planted, run

from ambient_sweep.config import build_config
from ambient_sweep.errors import TrainingDiverged, UserError
from ambient_sweep.training.files import write_tensors
from ambient_sweep.training.health import FEWEST, REMEMBERED, check_finite, check_spike
from ambient_sweep.training.loop import train
from ambient_sweep.training.saved import BEGIN_AGAIN, restore_newest, save_newest, saved_states, state_name
from ambient_sweep.training.state import TrainState
from ambient_sweep.training.step import REWIND_FACTOR

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
    """The newest sound state, its name, and what the user is told."""
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
    "a changed format": (lambda f: change(f / "state.json", '"format": 2', '"format": 3'), "damaged (its sha256"),
    "a changed note": (lambda f: change(f / "state.json", '"images": 384', '"images": 320'), "damaged (its sha256"),
    "a cut": (lambda f: (f / "state.safetensors").write_bytes(b"cut"), "damaged (its sha256"),
    "notes nested too deep": (lambda f: (f / "state.json").write_text("[" * 200_000), "not a readable state ("),
    "notes missing": (lambda f: (f / "state.json").unlink(), "not a readable state ("),
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


def test_a_damaged_state_goes_when_the_next_one_is_saved(place):
    flip(place / "images-000000384" / "state.safetensors")
    state, _, _ = restored(place)
    with closing(train(CONFIG, observations(), state, stops=frozenset({320}))) as records:
        next(record for record in records if record.images == 320)
    save_newest(place, state)
    assert names(place) == ["images-000000320", "images-000000256"]


def test_what_a_killed_process_left_half_written_goes(place):
    left = place / ".images-000000512.4711.tmp"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    state, name, lines = restored(place)
    assert (name, lines) == ("images-000000384", [])
    assert not left.exists()
    assert state.images == 384


def test_files_in_the_place_of_folders_give_way(place):
    """A file named as a state is a damaged state; one named as a half-written one goes."""
    left = place / ".images-000000512.4711.tmp"
    left.write_bytes(b"half")
    (place / "images-000000400").write_bytes(b"no folder")
    state, name, lines = restored(place)
    assert name == "images-000000384"
    assert len(lines) == 1
    assert lines[0].startswith("state images-000000400: ")
    assert not left.exists()
    (place / "images-000000384.old").touch()  # no state
    save_newest(place, state)
    assert names(place) == ["images-000000384", "images-000000256"]
    shutil.rmtree(place / "images-000000384")
    (place / "images-000000384").write_bytes(b"no folder")
    (place / f".images-000000384.{os.getpid()}.tmp").write_bytes(b"half")
    save_newest(place, state)
    assert restored(place)[1:] == ("images-000000384", [])


def test_states_of_another_config_or_format_are_refused_and_not_passed_over(place):
    other = TrainState.create(build_config(BASE, {"seed": 1}), SHAPE)
    with pytest.raises(UserError, match="another config"):
        restore_newest(place, other, print)
    meta = {"format": 1, "images": 384, "config": CONFIG.model_dump(mode="json")}
    write_tensors(place / "images-000000384", "state", other.tensors(), meta)
    with pytest.raises(UserError, match=rf"has format 1, this version reads 2; remove {place} {BEGIN_AGAIN}"):
        restored(place)


def test_states_are_known_by_images_then_by_how_often_training_went_back(tmp_path):
    order = [(0, 1), (64, 0), (64, 2), (64, 10), (1_000_000_000, 0), (20_000_000_000, 0)]
    for images, rewinds in reversed(order):
        (tmp_path / state_name(images, rewinds)).mkdir()
    (tmp_path / "images-elsewhere").mkdir()
    assert names(tmp_path) == [state_name(*place) for place in reversed(order)]


# -- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((float("nan"), 0, 0), "loss"),
        ((1, float("inf"), 0), "consistency loss"),
        ((1, 0, float("nan")), "gradient norm"),
    ],
)
def test_what_is_not_finite_is_named(values, name):
    with pytest.raises(TrainingDiverged, match=rf"^the {name} is not finite at 64 images \((nan|inf)\); lower"):
        check_finite(64, *values)
    check_finite(64, 1.0, -2.0, 3.0)


def test_a_spike_is_a_loss_far_above_the_running_median():
    before = [1.0, 1.2, 0.8]
    check_spike(64, 100.0, before, 3.0)  # too few to tell
    assert before == [1.0, 1.2, 0.8, 100.0]
    check_spike(128, 3.29, before, 3.0)  # median 1.1
    with pytest.raises(TrainingDiverged, match=r"the loss is 4 at 192 images, .*training.spike=3 times .*median 1.2;"):
        check_spike(192, 4.0, before, 3.0)
    assert before[-1] == 3.29  # one that counts as a spike is not remembered
    check_spike(192, 1e9, before, None)
    for value in range(100):
        check_spike(256, 1.0 + value / 1000, before, 2.0)
    assert len(before) == REMEMBERED > FEWEST


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_spike_in_training_is_seen_at_its_record(prefetch):
    config = build_config(BASE, {"training.spike": 20.0, "compute.prefetch": prefetch})
    with (
        planted(330, 1000.0),
        pytest.raises(TrainingDiverged, match=r"at 384 images, more than training.spike=20 times its running median"),
    ):
        run(config, observations())
    assert run(CONFIG, observations())[0].images == 640
    early = build_config(BASE, {"training.spike": 20.0, "training.stop": 352 / 640})  # before that record
    with planted(330, 1000.0), pytest.raises(TrainingDiverged, match=r"at 352 images, more than training.spike=20"):
        run(early, observations())


def test_a_value_that_is_not_finite_is_never_yielded():
    """Not even in a record between the regular ones: what is yielded may be saved."""
    state = new_state(CONFIG, observations())
    records = train(CONFIG, observations(), state, stops=frozenset({320, 336, 352}))
    with planted(330):
        assert [next(records).images for _ in range(5)] == [64, 128, 192, 256, 320]
        with pytest.raises(TrainingDiverged, match="the loss is not finite at 336 images"):
            next(records)
    assert state.images == 336


def test_each_going_back_halves_the_learning_rate():
    state = new_state(CONFIG, observations())
    plain, records = run(CONFIG, observations())
    state.rewinds = 2
    _, slower = run(CONFIG, observations(), state)
    assert [r.lr for r in slower] == [r.lr * REWIND_FACTOR**2 for r in records]
    assert plain.rewinds == 0
