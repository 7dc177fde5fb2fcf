"""What a sweep leaves when it has ended, and how it goes on from that."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_trials import POWER, assert_same, files, small

from ambient_sweep import storage
from ambient_sweep.cli import commands
from ambient_sweep.errors import UserError
from ambient_sweep.stages.stages import Stages
from ambient_sweep.trial.records import read_trial, read_trial_evaluations, write_trial
from ambient_sweep.trial.remeasure import remeasure
from ambient_sweep.trial.retention import discard
from ambient_sweep.trial.run import Interrupted, run_trial

KEPT = "trials/b/checkpoints/images-000001120"


def trained(root, power=False):
    """Two completed trials, one that was stopped by a rule, and one that may go on."""
    extra = POWER if power else {}
    run_trial(small(extra), root, "a", stages=Stages(root))
    run_trial(small(extra, {"consistency.weight": 3.0}), root, "b", stages=Stages(root))
    for name, reason in (("c", "stopped by search.stopping after 640 images"), ("d", "interrupted at 640 images")):
        with pytest.raises(Interrupted):
            part_of(small(extra, {"seed": 1}), root, name, 640)
        write_trial(root, replace(read_trial(root, name), reason=reason))


def part_of(config, root, name, images, **options):
    """Trains up to `images`, and is interrupted there, in its evaluation."""
    seen = []
    run_trial(config, root, name, on_report=lambda n, e: seen.append(n), interrupted=lambda: images in seen, **options)


@pytest.fixture(scope="module")
def ended(prepared, tmp_path_factory):
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("ended") / "sweep")
    trained(root)
    return root


@pytest.fixture
def root(ended, tmp_path):
    """A sweep that has ended, with hard links between trials and stages as they were."""
    return shutil.copytree(ended, tmp_path / "sweep", copy_function=os.link)


def test_only_the_kept_checkpoint_and_trials_that_may_go_on_keep_their_tensors(root):
    before = {name: files(root / "trials" / name, "**/*.*") for name in "abcd"}
    found = discard(root, [KEPT])
    assert not (root / "stages").exists()
    assert {str(p.parent.relative_to(root)) for p in root.glob("trials/[abc]/**/*.safetensors")} == {KEPT}
    assert files(root / "trials" / "d", "**/*.*") == before["d"]
    for name in "abc":
        left = files(root / "trials" / name, "**/*.*")
        assert {k: v for k, v in left.items() if k != "trial.json"}.items() <= before[name].items()
        assert len(read_trial_evaluations(root, name)) == (2 if name == "c" else 8)
    assert len([folder for folder in found if folder.parent.name == "checkpoints"]) == 4 + 3 + 1
    assert discard(root, [KEPT]) == []


def test_snapshots_stay_with_a_trial_that_keeps_a_checkpoint(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / "sweep")
    for name in "ab":
        run_trial(small(POWER, {"training.stop": 0.4}), root, name, stages=Stages(root))
    discard(root, ["trials/b/checkpoints/images-000000640"])
    assert [name for name in "ab" if (root / "trials" / name / "snapshots").exists()] == ["b"]
    out = str(tmp_path / "out")
    assert told("average", str(root / "trials/b"), "--length", "0.07", "--out", out) == ""
    assert "snapshots: was removed when the sweep ended" in told(
        "average", str(root / "trials/a"), "--length", "0.07", "--out", out + "2"
    )


def told(*command):
    """The one line of a command's error; nothing where it succeeds."""
    try:
        commands.main(command, standalone_mode=False)
    except UserError as error:
        return str(error)
    return ""


def test_a_removed_checkpoint_is_explained_with_a_cure_that_works(root, tmp_path):
    gone = root / "trials/a/checkpoints/images-000000640"
    model = (gone / "model.safetensors").read_bytes()
    discard(root, [KEPT])
    for command in (["sample", str(gone), "--count", "2", "--out", str(tmp_path / "out")], ["evaluate", str(gone)]):
        line = told(*command)
        assert f"{gone}: was removed when the sweep ended (search.keep=frontier)" in line
    cure = line.partition("`ambient-sweep ")[2].partition("`")[0].split()
    assert told(*cure, "--storage", str(tmp_path / "runs")) == ""
    (again,) = (tmp_path / "runs").glob("*/trials/train/checkpoints/images-000000640/model.safetensors")
    assert again.read_bytes() == model
    assert "there is no checkpoint" in told("evaluate", str(root / "trials/d/checkpoints/images-000009999"))


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "from a stage"])
def test_a_stopped_trial_that_goes_on_ends_with_the_same_bits_and_reports_only_what_is_new(root, alone, shared):
    config, kept = small({"seed": 1}), files(root / "trials" / "c", "evaluations/*.json")
    discard(root, [KEPT])
    stages, seen = Stages(root) if shared else None, []
    if shared:
        run_trial(small({"seed": 1, "consistency.weight": 3.0}), root, "e", stages=stages)
    record = run_trial(config, root, "c", stages=stages, on_report=lambda n, e: e and seen.append(n))
    assert seen == [640, 640, 1120, 1120, 1600, 1600]
    assert (record.status, record.forked_at) == ("completed", 960 if shared else 0)
    assert record.images_executed == 640 + (640 if shared else 1600)
    assert kept.items() <= files(root / "trials" / "c", "evaluations/*.json").items()
    assert_same(root, "c", alone(config))


def test_a_removed_checkpoint_is_trained_again_to_be_measured_again(root):
    checkpoint = root / "trials/a/checkpoints/images-000000640"
    model, before = (checkpoint / "model.safetensors").read_bytes(), read_trial(root, "a")
    measured = remeasure(root, "a", 640, checkpoint, 7, 64)
    discard(root, [KEPT])
    again = remeasure(root, "a", 640, checkpoint, 7, 64)
    assert [each.measures for each in again] == [each.measures for each in measured]
    assert (checkpoint / "model.safetensors").read_bytes() == model
    record = read_trial(root, "a")
    assert record.images_executed == before.images_executed + 640 + 32
    assert (record.status, record.images_done, record.discarded) == ("completed", 1600, 1600)
    assert not (root / "trials/a/state").exists()
    assert len(read_trial_evaluations(root, "a")) == 8


KILLED = """
import sys
from pathlib import Path
from ambient_sweep.trial import retention
from ambient_sweep import storage
from sudden_death import nth
{place}
retention.discard(Path(sys.argv[1]), [{kept!r}])
"""
PLACES = [
    'nth(retention, "write_trial", 2)',
    'nth(storage, "remove", 1)',
    'nth(retention, "remove_whole", 2, before=False)',
    *(pytest.param(f'nth(storage, "remove", {n})', marks=pytest.mark.slow) for n in (3, 6, 9, 12)),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_in_between_leaves_whole_folders_and_the_next_call_finishes(root, alone, place):
    code = KILLED.format(place=place, kept=KEPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code, str(root)], check=False, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    for folder in root.glob("trials/*/checkpoints/images-*"):
        assert {p.name for p in folder.iterdir()} == {"model.safetensors", "checkpoint.json"}
    storage.remove_leftovers(root, "**/")
    discard(root, [KEPT])
    assert {str(p.parent.relative_to(root)) for p in root.glob("trials/[abc]/**/*.safetensors")} == {KEPT}
    assert not [*root.rglob("*.tmp"), *root.glob("stages")]
    run_trial(small({"seed": 1}), root, "c")
    assert_same(root, "c", alone(small({"seed": 1})))
