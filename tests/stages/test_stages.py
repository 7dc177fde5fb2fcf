"""Trials that share what they have in common: the same bits as alone, whatever happens on the way."""

import os
import signal
import subprocess
import sys

import pytest
from small_trials import POWER, assert_same, files, opened, small

from ambient_sweep.config import dump
from ambient_sweep.errors import UserError
from ambient_sweep.object_client import is_url
from ambient_sweep.stages import stages as stages_module
from ambient_sweep.stages.keys import data_key, fork_points, prefix_of
from ambient_sweep.stages.stages import STATE, Stages
from ambient_sweep.training.state import load_model
from ambient_sweep.trial import stage_client
from ambient_sweep.trial.records import read_trial, read_trial_evaluations
from ambient_sweep.trial.run import Interrupted, run_trial

LENGTHS = [320, 640, 1120, 1600]
SECOND = {"consistency.weight": 3.0}  # what most tests train second: another run from 960 images on


def stage_keys(config, data):
    return {images: prefix_of(config).key(images, data) for images in fork_points(config)}


def leftovers(root):
    return [p for p in (root / "stages").rglob("*") if p.name.endswith(".tmp")]


# -- equal to the bit -------------------------------------------------------------------------------------------------

AMBIENT = {"objective.kind": "ambient"}
DENOISING = {"objective.kind": "denoising", "observed.sigma": 0.0}
WSD = {"optimizer.schedule": "wsd"}
CLEAN_LOW = {"objective.kind": "ambient_high_clean_low", "data.flip": True}
UNET = {"model.kind": "unet", "model.levels": 2, "model.width": 8, "sampling.steps": 2, "evaluation.samples": 8}
BETWEEN = {"training.records": 7}  # a record every 7 of 50 steps
DISTILLED = {"objective.kind": "ambient_distilled", "distillation.start": 0.5}
CONDITIONAL = {"model.conditional": True}
CASES = {  # what is trained first, what then, where it goes on, and what it trains itself
    "another weight": ({}, SECOND, 960, 640),
    "an earlier start": ({}, {"consistency.start": 0.5}, 640, 960),
    "another tail": (WSD, WSD | {"optimizer.decay": 0.1}, 1280, 320),
    "other samples of all": (DENOISING, DENOISING | {"sampling.steps": 4}, 1600, 0),
    "to a longer one, from between two records": (BETWEEN | {"training.stop": 0.62}, BETWEEN, 992, 608),
    "another distillation of one teacher": (DISTILLED, DISTILLED | {"distillation.alpha": 1.0}, 800, 800),
    "power averages, another tail": (POWER | WSD, POWER | WSD | {"optimizer.decay": 0.1}, 1280, 320),
    "power averages, another length": (POWER, POWER | {"ema.length": 0.08}, 1600, 160),
}
MORE = {
    "after a run without consistency": (AMBIENT, {"consistency.ramp": "cosine"}, 640, 960),
    "a generator after a run without one": (AMBIENT, DISTILLED, 640, 960),
    "from the teacher of a generator": (DISTILLED, {"consistency.start": 0.5}, 800, 800),
    "clean below the level": (CLEAN_LOW | WSD, CLEAN_LOW | WSD | {"optimizer.decay": 0.1}, 1280, 320),
    "other lengths": (AMBIENT, AMBIENT | {"evaluation.lengths": [0.1, 0.4, 1.0]}, 1600, 160),
    "to a longer one, from one step after a record": (BETWEEN | {"training.stop": 0.3}, BETWEEN, 480, 1120),
    "classes": (CONDITIONAL, CONDITIONAL | {"consistency.draws": 3}, 960, 640),
    "unet, tail": (UNET | AMBIENT | WSD, UNET | AMBIENT | WSD | {"optimizer.decay": 0.1}, 1280, 320),
}


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)])
def test_a_forked_trial_equals_an_unforked_one(root, alone, case):
    first, second, forked_at, executed = (CASES | MORE)[case]
    stages = Stages(root)
    run_trial(small(first), root, "a", stages=stages)
    config, seen = small(second), []
    record = run_trial(config, root, "b", stages=stages, on_report=lambda n, e: e and seen.append(e))
    other, last = alone(config), config.images_at(config.training.stop)
    assert_same(root, "b", other)
    assert (record.forked_at, record.images_executed, record.images_done) == (forked_at, executed, last)
    assert record.stage in stages.states()
    assert record.stage.startswith(f"{forked_at:09d}-")
    # each evaluation is reported once, in order, whoever made it
    lengths = [e.images for e in seen if e.main_endpoint]
    assert lengths == sorted({e.images for e in read_trial_evaluations(root, "b")})
    assert all(e.trial_id == "b" and e.checkpoint.startswith("trials/b/checkpoints/") for e in seen)
    assert all(load_model(root / evaluation.checkpoint)[1] == config for evaluation in seen)
    assert run_trial(config, root, "b", stages=stages, on_report=pytest.fail).images_executed == executed
    # what it stored itself is as good: a third trial, with nothing else to go on from
    stages.collect([config])
    third = run_trial(config, root, "c", stages=stages)
    assert_same(root, "c", other)
    assert (third.images_executed, third.forked_at) == (0, third.images_done)


def test_stages_change_nothing_for_the_first_trial(root, alone):
    """But that it saves a few states more."""
    config = small()
    record = run_trial(config, root, "a", stages=Stages(root))
    assert (record.stage, record.forked_at, record.images_executed) == (None, 0, 1600)
    assert_same(root, "a", alone(config))
    assert fork_points(config) == (320, 640, 960, 1600)
    assert Stages(root).states() == set(stage_keys(config, data_key(root)).values())
    other = run_trial(small({"seed": 1}), root, "b", stages=Stages(root), role="replicate", replicate_of="a")
    assert (other.forked_at, other.images_executed, other.replicate_of) == (0, 1600, "a"), "another seed shares nothing"


def leave_at(images):
    """A caller that leaves, as a paused trial does, at an evaluation."""

    def report(at, evaluation):
        if evaluation is not None and evaluation.main_endpoint and at == images:
            raise SystemExit

    return report


def test_one_training_measured_otherwise_is_trained_once_as_far_as_it_came(root, alone):
    """It paused after its consistency had begun, where only a trial of the same training can go on."""
    power = {"ema.kind": "power", "ema.tracked": [0.05, 0.1]}
    stages = Stages(root, every_length=True)
    with pytest.raises(SystemExit):
        run_trial(small(power, {"ema.length": 0.05}), root, "a", stages=stages, on_report=leave_at(1120))
    config = small(power, {"ema.length": 0.1})
    assert fork_points(config, every_length=True) == (320, 640, 960, 1120, 1600)
    record = run_trial(config, root, "b", stages=stages)
    assert (record.forked_at, record.images_executed) == (1120, 480)
    assert_same(root, "b", alone(config))


def test_a_trial_that_leaves_while_it_takes_over_holds_nothing_unreported(root, alone):
    """It could jump by three lengths at once, and is paused at the second: there it stands, and goes on from there."""
    run_trial(small(), root, "a", stages=Stages(root))
    config = small({"consistency.start": 0.8})
    with pytest.raises(SystemExit):
        run_trial(config, root, "b", stages=Stages(root), on_report=leave_at(640))
    assert {e.images for e in read_trial_evaluations(root, "b")} == {320, 640}
    record = read_trial(root, "b")
    assert (record.images_done, record.images_executed, record.forked_at) == (640, 0, 640)
    record = run_trial(config, root, "b", stages=Stages(root))
    assert (record.forked_at, record.images_executed) == (960, 640)
    assert_same(root, "b", alone(config))


@pytest.mark.parametrize("resumed", [False, True])
def test_what_another_stored_meanwhile_is_taken(root, alone, resumed):
    """The other was ahead all the time, but stored its states only when this one trained, or was interrupted."""
    config, asked = small(SECOND), []

    def watch(images, evaluation):
        if images == 160 and not asked:
            asked.append(None if resumed else run_trial(small(), root, "a", stages=Stages(root)))

    if resumed:
        with pytest.raises(Interrupted):
            run_trial(config, root, "b", stages=Stages(root), on_report=watch, interrupted=lambda: bool(asked))
        run_trial(small(), root, "a", stages=Stages(root))
    record = run_trial(config, root, "b", stages=Stages(root), on_report=watch)
    assert (record.forked_at, record.images_executed) == (960, (192 if resumed else 320) + 640)
    assert_same(root, "b", alone(config))


# -- damage -----------------------------------------------------------------------------------------------------------

SLOW = pytest.mark.slow
DAMAGES = [
    (f"{STATE}/state.safetensors", "damaged (its sha256 is not the one in state.json)", False),
    (f"{STATE}/manifest.json", "damaged (its sha256 is not the one it names", False),
    ("evaluation-*/zero.json", "damaged (its sha256", True),
    pytest.param("evaluation-*/model.safetensors", "damaged (its sha256 is not", False, marks=SLOW),
    pytest.param("evaluation-*/observed.png", "damaged (its sha256", False, marks=SLOW),
    pytest.param(f"{STATE}/state.safetensors", "", True, marks=SLOW),
    pytest.param(f"{STATE}/manifest.json", "", True, marks=SLOW),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "words", "gone"), DAMAGES)
def test_what_is_damaged_is_told_in_one_line_and_made_again(root, alone, pattern, words, gone):
    run_trial(small(), root, "a", stages=Stages(root))
    key = stage_keys(small(), data_key(root))[640 if pattern.startswith("evaluation") else 960]
    (file,) = (root / "stages" / key).glob(pattern)
    spoilt = bytearray(file.read_bytes())
    end = spoilt.rfind(b'"') if file.suffix == ".json" else len(spoilt) // 2  # in a JSON file, its own checksum's end
    spoilt[end - 1] ^= 1
    file.unlink()  # a hard link to a trial's own file
    if not gone:
        file.write_bytes(spoilt)
    lines, config = [], small(SECOND)
    record = run_trial(config, root, "b", stages=Stages(root), echo=lines.append)
    told = [line for line in lines if line.startswith("stage ")]
    if gone and file.name == "manifest.json":  # the part is not there, as if it had never been
        assert told == []
    else:
        (line,) = told
        assert line.startswith(f"stage {key}, ")
        assert line.endswith("going on without it")
        assert gone or words in line
    assert record.images_executed in (640, 960)
    assert_same(root, "b", alone(config))
    again = run_trial(small({"consistency.weight": 5.0}), root, "c", stages=Stages(root), echo=lines.append)
    assert again.forked_at == 960
    assert [line for line in lines if line.startswith("stage ")] == told


def test_what_was_made_elsewhere_is_left_alone(root, monkeypatch):
    run_trial(small(), root, "a", stages=Stages(root))
    monkeypatch.setattr(stage_client, "made_with", lambda device: {"torch": "9.9", "device": "cuda H100"})
    before, lines = files(root / "stages", "*/*/*"), []
    record = run_trial(small(SECOND), root, "b", stages=Stages(root), echo=lines.append)
    assert record.images_executed == 1600
    assert [line for line in lines if "made by torch" in line and line.endswith("without it")]
    assert before.items() <= files(root / "stages", "*/*/*").items()


def test_a_store_that_cannot_be_written_is_told_and_the_trial_goes_on(root, alone, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stages_module, "_link", full)
    lines = []
    record = run_trial(small(), root, "a", stages=Stages(root), echo=lines.append)
    assert record.status == "completed"
    stored = [line for line in lines if line.startswith("stage ")]
    assert stored
    assert all(line.endswith("No space left on device)") for line in stored)
    assert len(lines) > 4
    assert Stages(root).states() == set()
    assert leftovers(root) == []
    assert_same(root, "a", alone(small()))


# -- killed processes -------------------------------------------------------------------------------------------------

KILLED = """
import sys
from ambient_sweep import object_store, storage
from ambient_sweep.config import build_config
from ambient_sweep.stages import stages
from ambient_sweep.stages.stages import Stages
from ambient_sweep.trial import recorder, run, stage_client
from small_trials import opened
from sudden_death import nth
root = opened(sys.argv[1])
{place}
run_trial = run.run_trial
run_trial(build_config({config!r}), root, {name!r}, stages=Stages(root))
"""


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def killed(place, name, config, when):
    code = KILLED.format(place=when, config=dump(config), name=name)
    done = subprocess.run([sys.executable, "-c", code, place], check=False, env=environment(), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


PUBLISHING = {
    "before the rename": 'nth(stages, "write_notes", 3, before=False)',
    "between the files": 'nth(stages, "_link", 2, before=False)',
    "before the files": 'nth(stages, "_link", 1)',
    "after the rename": 'nth(Stages, "put", 3, before=False)',
}


@pytest.mark.parametrize("when", [*list(PUBLISHING)[:1], *(pytest.param(w, marks=SLOW) for w in list(PUBLISHING)[1:])])
def test_a_publisher_that_is_killed_leaves_nothing_half(place, alone, when, monkeypatch):
    config = small(SECOND)
    killed(place, "a", small(), PUBLISHING[when])
    lines, root = [], opened(place)
    record = run_trial(config, root, "b", stages=Stages(root), echo=lines.append)
    assert [line for line in lines if "damaged" in line or "without" in line] == []
    assert_same(root, "b", alone(config))
    resumed = run_trial(small(), root, "a", stages=Stages(root))
    assert_same(root, "a", alone(small()))
    assert resumed.status == record.status == "completed"
    assert leftovers(root) != [] or when == "after the rename" or is_url(place)
    monkeypatch.setattr(stages_module, "LEFTOVER_SECONDS", -1)
    Stages(root).collect([config])
    assert leftovers(root) == []


@pytest.mark.parametrize("count", [18, *(pytest.param(n, marks=SLOW) for n in range(8, 64, 3))])
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_trial_killed_between_two_objects_goes_on_elsewhere(place, alone, count):
    killed(place, "a", small(), f'nth(object_store.Copy, "upload", {count})')
    lines = []
    for name, config in (("b", small(SECOND)), ("a", small())):
        root = opened(place)
        run_trial(config, root, name, stages=Stages(root), echo=lines.append)
    assert [line for line in lines if "damaged" in line or "without" in line] == []
    root = opened(place)
    assert_same(root, "a", alone(small()))
    assert_same(root, "b", alone(small(SECOND)))


FORKING = {
    "while reading": 'nth(stage_client, "read_state", 1)',
    "between the evaluations": 'nth(stage_client, "write_evaluation", 2)',
    "before the state": 'nth(run._Run, "_save", 1)',
    "while reporting": 'nth(recorder.TrialRecorder, "evaluated", 2, before=False)',
    "before the picture": 'nth(recorder.TrialRecorder, "picture", 3)',
    "before the record": 'nth(recorder.TrialRecorder, "stands", 1)',
    "before the report": 'nth(recorder.TrialRecorder, "evaluated", 1)',
    "after the state": 'nth(run._Run, "_save", 1, before=False)',
}


@pytest.mark.parametrize("when", [*list(FORKING)[:3], *(pytest.param(w, marks=SLOW) for w in list(FORKING)[3:])])
def test_a_trial_killed_while_forking_goes_on(place, alone, when):
    root, config = opened(place), small(SECOND)
    run_trial(small(), root, "a", stages=Stages(root))
    killed(place, "b", config, FORKING[when])
    root = opened(place)
    if when in ("while reading", "before the record", "before the state"):  # what it was about to take is gone since
        Stages(root).collect([])
        assert read_trial(root, "b").status == "running"
    told = []
    record = run_trial(config, root, "b", stages=Stages(root), on_report=lambda n, e: e and told.append(n))
    assert record.status == "completed"
    assert (record.stage is None) == (record.forked_at == 0)
    assert record.images_executed <= 1600
    assert_same(root, "b", alone(config))
    assert set(told) >= ({1120, 1600} if when == "after the state" else set(LENGTHS))
    assert not list((root / "trials" / "b").rglob("*.tmp"))


# -- several processes at once ----------------------------------------------------------------------------------------

TRIAL = """
import sys
from contextlib import nullcontext
from pathlib import Path
from gloo import gloo_group
from ambient_sweep.config import build_config
from ambient_sweep.stages.stages import Stages
from ambient_sweep.training.group import SINGLE
from ambient_sweep.trial.run import run_trial
root, rank, lines = Path(sys.argv[1]), sys.argv[2], []
with gloo_group(root, int(rank)) if rank else nullcontext(SINGLE) as group:
    for word in sys.argv[3:]:
        name, weight, shared = word.split(":")
        config = build_config(CONFIG, {"consistency.weight": float(weight)})
        run_trial(config, root, name, group=group, stages=Stages(root) if shared else None, echo=lines.append)
assert not [line for line in lines if "damaged" in line], lines
"""


def together(root, config, *commands):
    code = f"CONFIG = {dump(config)!r}\n{TRIAL}"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(root), *words], env=environment(), stderr=subprocess.PIPE)
        for words in commands
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()


def test_trials_that_race_on_one_stage_are_all_correct(root, alone):
    weights = {"a": 1.0, "b": 3.0}
    together(root, small(), *(("", f"{name}:{weight}:shared") for name, weight in weights.items()))
    for name, weight in weights.items():
        assert_same(root, name, alone(small({"consistency.weight": weight})))
    assert leftovers(root) == []
    assert {int(key[:9]) for key in Stages(root).states()} == {320, 640, 960, 1600}


def test_the_workers_of_a_trial_go_on_together(root):
    together(root, small({"resources.workers": 2}), *((rank, "a:1:shared", "b:3:shared", "alone:3:") for rank in "01"))
    record = read_trial(root, "b")
    assert (record.status, record.forked_at, record.images_executed) == ("completed", 960, 640)
    assert_same(root, "b", root, other_name="alone")


# -- bounded disk -----------------------------------------------------------------------------------------------------


def test_what_nobody_needs_is_removed(root, alone):
    stages, data = Stages(root), data_key(root)
    for name, start in (("a", 0.6), ("b", 0.5), ("c", 0.8)):
        run_trial(small({"consistency.start": start}), root, name, stages=stages)
    before = files(root / "trials", "*/*/*/*")
    assert {int(key[:9]) for key in stages.states()} == {320, 640, 800, 960, 1120, 1280, 1600}
    needed = small({"consistency.start": 0.6})
    # the phases and ends of the two others, and what they were evaluated at after the first had begun its phase
    assert {int(key[:9]) for key in stages.collect([needed])} == {1120, 1280, 1600}
    assert stages.states() == set(stage_keys(needed, data).values()) | {prefix_of(needed).key(800, data)}
    record = run_trial(small(SECOND), root, "d", stages=stages)
    assert (record.forked_at, record.images_executed) == (960, 640)
    assert_same(root, "d", alone(small(SECOND)))
    # the trials themselves, and so the rows of the table, keep all that is theirs
    assert before.items() <= files(root / "trials", "*/*/*/*").items()
    # a running trial keeps what it may still take
    removed = stages.collect([small({"consistency.weight": 7.0})])
    assert stage_keys(small(SECOND), data)[1600] in removed
    assert {int(key[:9]) for key in stages.states()} == {320, 640, 800, 960}
    stages.collect([])
    assert list((root / "stages").iterdir()) == []


def test_an_unreadable_note_of_the_data_is_told(root):
    (root / "data.json").write_text("{")
    with pytest.raises(UserError, match=r"data\.json: cannot be read .*; restore it, or use a new name"):
        Stages(root).collect([])
