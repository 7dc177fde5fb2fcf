"""Trials that share what they have in common: the same bits as alone, whatever happens on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ambient_sweep.trial.object_store import ObjectStore
from whole_objects import Objects, whole_objects

from ambient_sweep.config import build_config, dump
from ambient_sweep.results.table import build_tables
from ambient_sweep.stages import folder_store as store_module
from ambient_sweep.stages.stages import STATE, Stages, collect, data_key_of, fork_points, stage_keys
from ambient_sweep.training import objective
from ambient_sweep.training.saved import saved_states
from ambient_sweep.training.state import load_model
from ambient_sweep.trial import sharing as sharing_module
from ambient_sweep.trial.records import read_trial, read_trial_evaluations
from ambient_sweep.trial.run import Interrupted, run_trial
from ambient_sweep.trial.setup import prepare

SMALL = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": 1600, "batch_size": 32, "records": 10, "checkpoints": 2},
    "evaluation": {"samples": 16, "lengths": [0.2, 0.4, 0.7, 1.0], "batch_size": 16, "extras": ["kid"]},
    "sampling.steps": 3,
    "consistency.start": 0.6,
    "consistency.batch_share": 0.5,
}
LENGTHS = [320, 640, 1120, 1600]


def small(*changes):
    return build_config(SMALL, *changes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    prepare(small(), root)
    return root


@pytest.fixture
def root(prepared, tmp_path):
    """The folder of a sweep before its first trial."""
    return shutil.copytree(prepared, tmp_path / "sweep")


@pytest.fixture
def alone(prepared, tmp_path_factory):
    """Trains a config without stages, in a sweep of its own."""

    def train(config):
        place = shutil.copytree(prepared, tmp_path_factory.mktemp("alone") / "sweep")
        run_trial(config, place, "t")
        return place

    return train


def values(root, name):
    found = {}
    for e in read_trial_evaluations(root, name):
        found[e.images, e.endpoint] = (e.measures, e.main_endpoint, e.fraction, e.samples, e.seed, e.fidelity)
    return found


def files(folder, pattern):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob(pattern))}


def assert_same(root, name, other, *, other_name="t"):
    """All that training and evaluation leave is the same, bytes of tensors and values of measures."""
    mine, theirs = (place / "trials" / n for place, n in ((root, name), (other, other_name)))
    last = saved_states(mine / "state")[0].name
    assert last == saved_states(theirs / "state")[0].name
    for pattern in (f"state/{last}/*.safetensors", "checkpoints/*/*.safetensors", "snapshots/*/*.safetensors",
                    "evaluations/*.png"):  # fmt: skip
        assert files(mine, pattern) == files(theirs, pattern), pattern
    notes = [json.loads((place / "state" / last / "state.json").read_text()) for place in (mine, theirs)]
    assert notes[0] == notes[1]  # the losses of the last records among them
    assert values(root, name) == values(other, other_name)


def leftovers(root):
    return [p for p in (root / "stages").rglob("*") if p.name.endswith(".tmp")]


# -- equal to the bit -------------------------------------------------------------------------------------------------

AMBIENT = {"objective.kind": "ambient"}
DENOISING = {"objective.kind": "denoising", "observed.sigma": 0.0}
WSD = {"optimizer.schedule": "wsd"}
POWER = {"ema.kind": "power", "ema.tracked": [0.05, 0.1], "ema.snapshots": 5}
CLEAN_LOW = {"objective.kind": "ambient_high_clean_low", "data.flip": True}
UNET = {"model.kind": "unet", "model.levels": 2, "model.width": 8, "sampling.steps": 2, "evaluation.samples": 8}
BETWEEN = {"training.records": 7, "training.spike": 1e6}  # a record every 7 of 50 steps
LONGER = {"training.images": 3200, "training.records": 20, "optimizer.warmup": 0.025}  # twice, with the same warm-up
CONSTANT = AMBIENT | {"optimizer.schedule": "constant"}
CASES = {  # what is trained first, what then, where it goes on, and what it trains itself
    "another weight": ({}, {"consistency.weight": 3.0}, 960, 640),
    "a later start": ({}, {"consistency.start": 0.8, "consistency.target": "ema"}, 960, 640),
    "an earlier start": ({}, {"consistency.start": 0.5}, 640, 960),
    "after a run without consistency": (AMBIENT, {"consistency.ramp": "cosine"}, 640, 960),
    "before one without": ({}, AMBIENT, 960, 640),
    "another tail": (AMBIENT | WSD, AMBIENT | WSD | {"optimizer.tail": "linear"}, 1280, 320),
    "a longer tail": (DENOISING | WSD, DENOISING | WSD | {"optimizer.decay": 0.5}, 640, 960),
    "tail and consistency": (WSD, WSD | {"optimizer.decay": 0.1}, 1280, 320),
    "another half-life": (AMBIENT, AMBIENT | {"ema.halflife": 50}, 320, 1280),
    "clean below the level": (CLEAN_LOW | WSD, CLEAN_LOW | WSD | {"optimizer.decay": 0.1}, 1280, 320),
    "other samples of all": (DENOISING, DENOISING | {"sampling.steps": 4}, 1600, 0),
    "other lengths": (AMBIENT, AMBIENT | {"evaluation.lengths": [0.1, 0.4, 1.0]}, 1600, 160),
    "to a longer one": ({"training.stop": 0.8}, {}, 1280, 320),
    "to a longer one, from between two records": (BETWEEN | {"training.stop": 0.62}, BETWEEN, 992, 608),
    "to a longer one, from one step after a record": (BETWEEN | {"training.stop": 0.3}, BETWEEN, 480, 1120),
    "between two records, averages": (BETWEEN | POWER | {"training.stop": 0.52}, BETWEEN | POWER, 832, 768),
    "to a shorter one": (AMBIENT, AMBIENT | {"training.stop": 0.4}, 640, 0),
    "to twice the length": (AMBIENT | WSD, AMBIENT | WSD | LONGER, 1280, 1920),
    "to half the length": (AMBIENT | WSD | LONGER, AMBIENT | WSD, 1280, 320 + 480 + 320),
    "to twice the length, at a constant rate": (CONSTANT, CONSTANT | LONGER, 1600, 160 + 1600),
    "to twice the length, clean below": (CLEAN_LOW | WSD, CLEAN_LOW | WSD | LONGER | {"ema.halflife": 200}, 1280, 1920),
    "to twice the length, all": (
        WSD | POWER,
        WSD | POWER | LONGER | {"consistency.start": 0.3, "ema.snapshots": 10},
        1280,
        1920,
    ),
    "power averages": (POWER, POWER | {"consistency.weight": 3.0, "consistency.target": "ema"}, 960, 640),
    "power averages, another length": (POWER, POWER | {"ema.length": 0.08}, 1600, 160),
    "power averages, both": (POWER, POWER | {"ema.length": 0.08, "consistency.start": 0.8}, 960, 640),
    "classes": ({"model.conditional": True}, {"model.conditional": True, "consistency.draws": 3}, 960, 640),
    "unet": (UNET, UNET | {"consistency.weight": 3.0}, 960, 640),
    "unet, tail": (UNET | AMBIENT | WSD, UNET | AMBIENT | WSD | {"optimizer.decay": 0.1}, 1280, 320),
}


@pytest.mark.parametrize("case", CASES)
def test_a_forked_trial_equals_an_unforked_one(root, alone, case):
    first, second, forked_at, executed = CASES[case]
    stages, data = Stages(root), data_key_of(root)
    run_trial(small(first), root, "a", stages=stages)
    config, seen = small(second), []
    record = run_trial(config, root, "b", stages=stages, on_report=lambda r: r.evaluation and seen.append(r.evaluation))
    other = alone(config)
    assert_same(root, "b", other)
    assert (record.forked_at, record.images_executed, record.images_done) == (
        forked_at,
        executed,
        config.images_at(config.training.stop),
    )
    assert record.stage in stages.states()
    assert record.stage.startswith(f"{forked_at:09d}-")
    # each evaluation is told once, in order, whoever made it
    lengths = [e.images for e in seen if e.main_endpoint]
    assert lengths == sorted({e.images for e in read_trial_evaluations(root, "b")})
    assert all(e.trial_id == "b" and e.checkpoint.startswith("trials/b/checkpoints/") for e in seen)
    for evaluation in seen:
        _, own, _ = load_model(root / evaluation.checkpoint)
        assert own == config
    assert run_trial(config, root, "b", stages=stages, on_report=pytest.fail).images_executed == executed
    # what it stored itself is as good: a third trial, with nothing else to go on from
    collect(root, set(stage_keys(config, data).values()))
    third = run_trial(config, root, "c", stages=stages)
    assert_same(root, "c", other)
    assert (third.images_executed, third.forked_at) == (0, third.images_done)
    row = build_tables(root).trials.to_pylist()[1]
    assert (row["stage"], row["images_forked"], row["images_executed"]) == (record.stage, forked_at, executed)


def test_stages_change_nothing_for_the_first_trial(root, alone):
    """But that it saves a few states more."""
    config = small()
    record = run_trial(config, root, "a", stages=Stages(root))
    assert (record.stage, record.forked_at, record.images_executed) == (None, 0, 1600)
    assert_same(root, "a", alone(config))
    assert fork_points(config) == (320, 640, 960, 1600)
    assert Stages(root).states() == set(stage_keys(config, data_key_of(root)).values())


def test_one_training_measured_otherwise_is_trained_once_as_far_as_it_came(root, alone):
    """It paused after its consistency had begun, where only a trial of the same training can go on."""
    power = {"ema.kind": "power", "ema.tracked": [0.05, 0.1]}
    stages = Stages(root, every_length=True)
    seen = []

    def pause(report):
        seen.append(report.images)
        if report.evaluation is not None and report.images == 1120:
            raise SystemExit

    with pytest.raises(SystemExit):
        run_trial(small(power, {"ema.length": 0.05}), root, "a", stages=stages, on_report=pause)
    config = small(power, {"ema.length": 0.1})
    assert fork_points(config, every_length=True) == (320, 640, 960, 1120, 1600)
    record = run_trial(config, root, "b", stages=stages)
    assert (record.forked_at, record.images_executed) == (1120, 480)
    assert_same(root, "b", alone(config))


def test_who_leaves_while_it_takes_over_holds_nothing_that_it_did_not_tell(root, alone):
    """It is ahead by three lengths at once, and is paused at the second: there it stands, and goes on from there."""
    run_trial(small(), root, "a", stages=Stages(root))
    config, told = small({"consistency.start": 0.8}), []

    def pause(report):
        if report.evaluation is not None and report.evaluation.main_endpoint:
            told.append(report.images)
            if report.images == 640:
                raise SystemExit

    with pytest.raises(SystemExit):
        run_trial(config, root, "b", stages=Stages(root), on_report=pause)
    assert told == [320, 640]
    assert {e.images for e in read_trial_evaluations(root, "b")} == {320, 640}
    record = read_trial(root, "b")
    assert (record.images_done, record.images_executed, record.forked_at) == (640, 0, 640)
    record = run_trial(config, root, "b", stages=Stages(root), on_report=lambda report: None)
    assert (record.forked_at, record.images_executed) == (960, 640)
    assert_same(root, "b", alone(config))


def test_runs_of_other_seeds_share_nothing(root):
    run_trial(small(), root, "a", stages=Stages(root))
    record = run_trial(small({"seed": 1}), root, "b", stages=Stages(root), role="replicate", replicate_of="a")
    assert (record.forked_at, record.images_executed, record.replicate_of) == (0, 1600, "a")
    assert read_trial(root, "b") == record


def test_an_evaluation_made_while_one_trains_is_taken_too(root, alone):
    """The other was ahead all the time, but stored its states only when this one had begun."""
    config, asked = small({"consistency.weight": 3.0}), []

    def watch(report):
        if report.images == 160 and not asked:
            asked.append(run_trial(small(), root, "a", stages=Stages(root)))

    record = run_trial(config, root, "b", stages=Stages(root), on_report=watch)
    assert (record.forked_at, record.images_executed) == (960, 320 + 640)
    assert_same(root, "b", alone(config))


def test_a_trial_that_went_back_neither_gives_nor_takes(root, monkeypatch):
    draw, losses, bad = objective.draw, objective.main_loss, []

    def drawn(config, batch, consistency):
        draws = draw(config, batch, consistency)
        if batch.start == 352 and not bad:
            bad.append(draws)
        return draws

    monkeypatch.setattr(objective, "draw", drawn)
    monkeypatch.setattr(
        objective, "main_loss", lambda d, x: losses(d, x) * (float("nan") if any(x is b for b in bad) else 1.0)
    )
    config = small({"training.on_nan": "rewind"})
    record = run_trial(config, root, "a", stages=Stages(root))
    assert (record.status, record.images_executed) == ("completed", 1600 + 160)
    assert {int(key[:9]) for key in Stages(root).states()} == {320}
    monkeypatch.undo()
    run_trial(config, root, "b", stages=Stages(root))
    shutil.rmtree(root / "trials" / "a" / "evaluations")
    assert run_trial(config, root, "a", stages=Stages(root), on_report=print).forked_at == 0


# -- damage -----------------------------------------------------------------------------------------------------------

DAMAGES = {
    "a bit of the state": (f"{STATE}/state.safetensors", "damaged (its sha256 is not the one in state.json)"),
    "the notes of the state": (f"{STATE}/state.json", "damaged (its sha256 is not the one in manifest.json)"),
    "the manifest": (f"{STATE}/manifest.json", "damaged, or of another version"),
    "a model": ("evaluation-*/model.safetensors", "damaged (its sha256 is not the one in checkpoint.json)"),
    "a record": ("evaluation-*/zero.json", "damaged (its sha256"),
    "a picture": ("evaluation-*/observed.png", "damaged (its sha256"),
}


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_told_in_one_line_and_made_again(root, alone, damage, gone):
    pattern, words = DAMAGES[damage]
    run_trial(small(), root, "a", stages=Stages(root))
    key = stage_keys(small(), data_key_of(root))[640 if pattern.startswith("evaluation") else 960]
    (file,) = (root / "stages" / key).glob(pattern)
    spoilt = bytearray(file.read_bytes())
    spoilt[len(spoilt) // 2] ^= 64
    file.unlink()  # a hard link to a trial's own file
    if not gone:
        file.write_bytes(spoilt)
    lines, config = [], small({"consistency.weight": 3.0})
    record = run_trial(config, root, "b", stages=Stages(root), echo=lines.append)
    told = [line for line in lines if line.startswith("stage ")]
    if gone and file.name == "manifest.json":  # the part is not there, as if it had never been
        assert told == []
    else:
        assert len(told) == 1
        assert told[0].startswith(f"stage {key}, ")
        assert told[0].endswith("going on without it")
        assert gone or words in told[0]
    assert record.images_executed in (640, 960)
    assert_same(root, "b", alone(config))
    again = run_trial(small({"consistency.weight": 5.0}), root, "c", stages=Stages(root), echo=lines.append)
    assert again.forked_at == 960
    assert [line for line in lines if line.startswith("stage ")] == told


def test_what_was_made_elsewhere_is_left_alone(root, monkeypatch):
    run_trial(small(), root, "a", stages=Stages(root))
    monkeypatch.setattr(sharing_module, "made_with", lambda device: {"torch": "9.9", "device": "cuda H100"})
    before, lines = files(root / "stages", "*/*/*"), []
    record = run_trial(small({"consistency.weight": 3.0}), root, "b", stages=Stages(root), echo=lines.append)
    assert record.images_executed == 1600
    assert len([line for line in lines if "made by torch" in line and line.endswith("without it")]) >= 1
    assert before.items() <= files(root / "stages", "*/*/*").items()


def test_a_store_that_cannot_be_written_is_told_and_the_trial_goes_on(root, alone, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.FolderStore, "_rename_in", full)
    lines = []
    record = run_trial(small(), root, "a", stages=Stages(root), echo=lines.append)
    assert record.status == "completed"
    assert all(line.endswith("No space left on device)") for line in lines[1:])
    assert len(lines) > 4
    assert Stages(root).states() == set()
    assert leftovers(root) == []
    assert_same(root, "a", alone(small()))


# -- killed processes -------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from ambient_sweep.config import build_config
from ambient_sweep.stages.stages import Stages
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial import book, run, sharing
from ambient_sweep.stages import folder_store
from sudden_death import die, nth
root = Path(sys.argv[1])
{place}
stages = Stages(root)
if {remote}:
    from whole_objects import whole_objects
    stages = Stages(root, object_store.ObjectStore(whole_objects(root / "remote"), "bucket/stages"))
run_trial(build_config({config!r}), root, {name!r}, stages=stages)
"""


def killed(root, name, config, place, remote=False):
    code = KILLED.format(place=place, config=dump(config), name=name, remote=remote)
    command = [sys.executable, "-c", code, str(root)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, check=False, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


PUBLISHING = {
    "before the files": 'nth(folder_store, "_link", 1)',
    "between the files": 'nth(folder_store, "_link", 2, before=False)',
    "before the manifest": 'nth(folder_store, "digest", 2)',
    "before the rename": 'nth(folder_store.FolderStore, "_rename_in", 3)',
    "after the rename": 'nth(folder_store.FolderStore, "_rename_in", 3, before=False)',
}


@pytest.mark.parametrize("when", PUBLISHING)
def test_a_publisher_that_is_killed_leaves_nothing_half(root, alone, when):
    config = small({"consistency.weight": 3.0})
    killed(root, "a", small(), PUBLISHING[when])
    lines = []
    record = run_trial(config, root, "b", stages=Stages(root), echo=lines.append)
    assert [line for line in lines if "damaged" in line or "without" in line] == []
    assert_same(root, "b", alone(config))
    resumed = run_trial(small(), root, "a", stages=Stages(root))
    assert_same(root, "a", alone(small()))
    assert resumed.status == record.status == "completed"
    assert leftovers(root) != [] or when == "after the rename"
    collect(root, Stages(root).states())
    assert leftovers(root) == []


FORKING = {
    "while reading": 'nth(sharing, "read_state", 1)',
    "between the evaluations": 'nth(sharing, "write_evaluation", 2)',
    "before the picture": 'nth(book.Book, "picture", 3)',
    "before the record": 'nth(book.Book, "forked", 1)',
    "before the telling": 'nth(book.Book, "evaluated", 1)',
    "while telling": 'nth(book.Book, "evaluated", 2, before=False)',
    "before the state": 'nth(run._Run, "_save", 1)',
    "after the state": 'nth(run._Run, "_save", 1, before=False)',
}


@pytest.mark.parametrize("when", FORKING)
def test_a_trial_killed_while_forking_goes_on(root, alone, when):
    run_trial(small(), root, "a", stages=Stages(root))
    config = small({"consistency.weight": 3.0})
    killed(root, "b", config, FORKING[when])
    if when in ("while reading", "before the record", "before the state"):  # what it was about to take is gone since
        collect(root, set(), running=[])
        assert read_trial(root, "b").status == "running"
    told = []
    record = run_trial(config, root, "b", stages=Stages(root), on_report=lambda r: r.evaluation and told.append(r))
    assert record.status == "completed"
    assert (record.stage is None) == (record.forked_at == 0)
    assert record.images_executed <= 1600
    assert_same(root, "b", alone(config))
    expected = {1120, 1600} if when == "after the state" else set(LENGTHS)
    assert {r.images for r in told} >= expected
    assert not list((root / "trials" / "b").rglob("*.tmp"))


def test_an_interrupted_trial_takes_what_was_stored_meanwhile(root, alone):
    config, asked = small({"consistency.weight": 3.0}), []

    def watch(report):
        if report.images == 480:
            asked.append(True)

    with pytest.raises(Interrupted):
        run_trial(config, root, "b", stages=Stages(root), on_report=watch, interrupted=lambda: bool(asked))
    run_trial(small(), root, "a", stages=Stages(root))
    record = run_trial(config, root, "b", stages=Stages(root))
    assert record.images_executed == 512 + 640
    assert_same(root, "b", alone(config))


# -- in an object store -----------------------------------------------------------------------------------------------


def in_objects(root):
    return Stages(root, ObjectStore(whole_objects(root / "remote"), "bucket/stages"))


@pytest.mark.parametrize("case", ["a later start", "power averages, another length", "to twice the length"])
def test_trials_share_by_an_object_store(root, alone, case):
    first, second, forked_at, executed = CASES[case]
    run_trial(small(first), root, "a", stages=in_objects(root))
    config, lines = small(second), []
    record = run_trial(config, root, "b", stages=in_objects(root), echo=lines.append)
    assert (record.forked_at, record.images_executed) == (forked_at, executed)
    assert_same(root, "b", alone(config))
    assert not (root / "stages").exists()
    stages, wanted = in_objects(root), set(stage_keys(config, data_key_of(root)).values())
    assert wanted <= stages.states()
    assert set(stages.collect(wanted)) | wanted >= set(stage_keys(small(first), data_key_of(root)).values())
    third = run_trial(config, root, "c", stages=stages)
    assert (third.images_executed, third.forked_at) == (0, third.images_done)
    stages.collect(set(), running=[])
    assert (stages.store.stored(), stages.bytes()) == (set(), 0)
    assert [line for line in lines if line.startswith("stage")] == []


def test_an_object_store_that_is_not_to_be_reached_is_told_and_the_trial_goes_on(root, alone, monkeypatch):
    def lost(*arguments):
        raise OSError("connection lost")

    monkeypatch.setattr(Objects, "get_file_info_selector", lost)
    lines = []
    record = run_trial(small(), root, "a", stages=in_objects(root), echo=lines.append)
    assert (record.status, record.images_executed) == ("completed", 1600)
    assert_same(root, "a", alone(small()))
    assert "stages: bucket/stages/parts: connection lost; going on without them" in lines
    assert all("connection lost" in line for line in lines[1:])


UPLOADING = {
    "between the files": 'nth(object_store.ObjectStore, "_send", 8)',
    "before the manifest": 'nth(object_store, "digest", 2)',
}


@pytest.mark.parametrize("when", UPLOADING)
def test_a_trial_that_is_killed_while_it_uploads_leaves_nothing_half(root, alone, when):
    killed(root, "a", small(), UPLOADING[when], remote=True)
    config, lines = small({"consistency.weight": 3.0}), []
    record = run_trial(config, root, "b", stages=in_objects(root), echo=lines.append)
    assert record.status == "completed"
    assert [line for line in lines if line.startswith("stage")] == []
    assert_same(root, "b", alone(config))
    assert run_trial(small(), root, "a", stages=in_objects(root)).status == "completed"
    assert_same(root, "a", alone(small()))


# -- several processes at once ----------------------------------------------------------------------------------------

TRIAL = """
import sys
from pathlib import Path
from ambient_sweep.config import build_config
from ambient_sweep.stages.stages import Stages
from ambient_sweep.trial.run import run_trial
root, name, weight = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
lines = []
run_trial(build_config({config!r}, {{"consistency.weight": weight}}), root, name, stages=Stages(root), echo=lines.append)
assert not [line for line in lines if "damaged" in line], lines
"""


def test_trials_that_race_on_one_stage_are_all_correct(root, alone):
    code = TRIAL.format(config=dump(small()))
    weights = {"a": 1.0, "b": 3.0, "c": 3.0, "d": 5.0}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(root), name, str(weight)], stderr=subprocess.PIPE)
        for name, weight in weights.items()
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    others = {weight: alone(small({"consistency.weight": weight})) for weight in set(weights.values())}
    for name, weight in weights.items():
        assert_same(root, name, others[weight])
    assert leftovers(root) == []
    assert {int(key[:9]) for key in Stages(root).states()} == {320, 640, 960, 1600}


TOGETHER = """
import sys
from pathlib import Path
import torch.distributed as dist
from ambient_sweep.config import build_config
from ambient_sweep.training.group import Group
from ambient_sweep.stages.stages import Stages
from ambient_sweep.trial.run import run_trial
root, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{{root}}/meet", rank=rank, world_size=2)
for name, weight in (("a", 1.0), ("b", 3.0), ("alone", 3.0)):
    config = build_config({config!r}, {{"consistency.weight": weight}})
    run_trial(config, root, name, group=Group.distributed(), stages=None if name == "alone" else Stages(root))
dist.destroy_process_group()
"""


def test_the_workers_of_a_trial_go_on_together(root):
    code = TOGETHER.format(config=dump(small({"resources.workers": 2})))
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(root), str(rank)], stderr=subprocess.PIPE) for rank in (0, 1)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    record = read_trial(root, "b")
    assert (record.status, record.forked_at, record.images_executed) == ("completed", 960, 640)
    assert_same(root, "b", root, other_name="alone")


# -- bounded disk -----------------------------------------------------------------------------------------------------


def size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_what_nobody_needs_is_removed(root, alone):
    stages, data = Stages(root), data_key_of(root)
    for name, start in (("a", 0.6), ("b", 0.5), ("c", 0.8)):
        run_trial(small({"consistency.start": start}), root, name, stages=stages)
    before = files(root / "trials", "*/*/*/*")
    assert {int(key[:9]) for key in stages.states()} == {320, 640, 800, 960, 1120, 1280, 1600}
    keys = {start: stage_keys(small({"consistency.start": start}), data) for start in (0.5, 0.6, 0.8)}
    keep = {keys[0.6][960]}
    removed = collect(root, keep)
    assert stages.states() == keep
    assert len(removed) == 8  # three ends, and five states on the way there
    # evaluations before the state that stays are there, and no other state
    assert {p.parent.name for p in (root / "stages").glob("*/evaluation-*")} == {keys[0.6][320], keys[0.6][640]}
    record = run_trial(small({"consistency.weight": 3.0}), root, "d", stages=stages)
    assert (record.forked_at, record.images_executed) == (960, 640)
    assert_same(root, "d", alone(small({"consistency.weight": 3.0})))
    # the trials themselves, and so the rows of the table, keep all that is theirs
    assert before.items() <= files(root / "trials", "*/*/*/*").items()
    assert collect(root, set(), running=[small({"consistency.weight": 7.0})]) == [
        key for key in sorted(removed + list(stage_keys(small({"consistency.weight": 3.0}), data).values()))
        if key == stage_keys(small({"consistency.weight": 3.0}), data)[1600]
    ]  # fmt: skip
    collect(root, set())
    assert {p.name for p in (root / "stages").iterdir()} == {".leases", ".removing"}
    assert size(root / "stages") == 0


def test_a_trial_under_way_keeps_what_it_may_still_take(root):
    stages = Stages(root)
    asked = []
    with pytest.raises(Interrupted):
        run_trial(
            small({"consistency.weight": 3.0}), root, "b", stages=stages, interrupted=lambda: asked.append(1) or True
        )
    run_trial(small(), root, "a", stages=stages)
    keys = stage_keys(small(), data_key_of(root))
    path = root / "trials" / "b" / "trial.json"
    path.write_text(path.read_text().replace('"status": "stopped"', '"status": "running"'))
    assert collect(root, set()) == [keys[1600]]
    assert stages.states() == {keys[320], keys[640], keys[960]}
