"""The folder of a run: who may take it, and what others put there."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import bad, good
from made_up_sweeps import make_trial
from small_sweeps import small_sweep, study_of

from ambient_sweep import trust
from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.object_store import open_url
from ambient_sweep.sweep.folder import check_unchanged, check_within, claim, sweep_folder
from ambient_sweep.sweep.run import resume_sweep, run_sweep
from ambient_sweep.sweep.running.session import open_search
from ambient_sweep.sweep.space.file import write_sweep
from ambient_sweep.trial.records import trial_folder, write_trial

if TYPE_CHECKING:
    from s3_server import S3Server


@pytest.mark.parametrize("name", ["stages", "trials/a/state", "trials/a/log.txt"])
def test_nothing_is_written_or_removed_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    link, mine = tmp_path / "run" / name, tmp_path / "mine"
    link.parent.mkdir(parents=True)
    mine.mkdir()
    link.symlink_to(mine)
    write_sweep(small_sweep(tmp_path), tmp_path / "run" / "sweep.yaml")
    with pytest.raises(UserError) as caught:
        resume_sweep(tmp_path / "run")
    assert str(caught.value) == (
        f"{link}: is a symbolic link, behind which this command would write and remove files; if you trust where it comes "
        "from, give --trust"
    )
    monkeypatch.setenv(trust.VARIABLE, "1")
    with pytest.raises(UserError, match=r"\.begun\.json: missing or damaged"):
        resume_sweep(tmp_path / "run")


def test_a_report_is_not_written_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trial(tmp_path / "run", make_trial("a", build_config({})))
    (tmp_path / "mine").mkdir()
    (tmp_path / "run" / "sweep").symlink_to(tmp_path / "mine")
    assert bad("report", tmp_path / "run").startswith(
        f"error: {tmp_path / 'run' / 'sweep'}: is a symbolic link, behind"
    )
    assert not any((tmp_path / "mine").iterdir())
    monkeypatch.setenv(trust.VARIABLE, "")  # undone at the end, whatever --trust sets
    monkeypatch.delenv(trust.VARIABLE)
    assert "nothing was measured yet" in good("report", tmp_path / "run", "--trust")


def test_an_attack_is_not_written_behind_a_link(tmp_path: Path) -> None:
    write_trial(tmp_path / "run", make_trial("a", build_config({})))
    trial = tmp_path / "run" / "trials" / "a"
    (trial / "checkpoints" / "images-000000064").mkdir(parents=True)
    (trial / "checkpoints" / "images-000000064" / "checkpoint.json").write_text("{}")
    (trial / "attack").symlink_to(tmp_path)
    line = bad("evaluate", trial / "checkpoints" / "images-000000064", "--attack", tmp_path / "pictures")
    assert line.startswith(f"error: {trial / 'attack'}: is a symbolic link, behind")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "null",
        "3",
        "[[1, 2]]",
        "{",
        '{"space.observed.sigma.uniform": "abc"}',
        '{"space.observed.sigma.uniform": [1]}',
    ],
)
def test_damaged_notes_of_what_began_are_named(tmp_path: Path, content: str) -> None:
    sweep = small_sweep(tmp_path)
    (tmp_path / ".begun.json").write_text(content)
    with pytest.raises(UserError, match=r"\.begun\.json: missing or damaged|space.*: is .* now, but was"):
        check_unchanged(sweep, tmp_path)


@pytest.mark.parametrize("trial_id", ["../../mine/evil", "/tmp/evil", "..", "", 3, ["a"]])
@pytest.mark.parametrize("key", ["trial_id", "observation_of", "fixed trials"])
def test_no_trial_of_a_study_leads_elsewhere(tmp_path: Path, trial_id: object, key: str) -> None:
    sweep = small_sweep(tmp_path)
    study = study_of(tmp_path)
    if key == "fixed trials":
        study.set_user_attr(key, [trial_id])
    else:
        study.ask().set_user_attr(key, trial_id)
    with pytest.raises(UserError, match=r"^study\.journal: damaged, names a trial .*; restore it, or `run`"):
        open_search(sweep, tmp_path)
    with pytest.raises(UserError, match="damaged, names a trial"):
        trial_folder(tmp_path, trial_id)  # type: ignore[arg-type]


def test_a_kill_while_the_study_is_written_leaves_no_link(tmp_path: Path) -> None:
    study_of(tmp_path)._storage._backend._lock.acquire()  # type: ignore[attr-defined]
    assert (tmp_path / "study.journal.lock").exists()
    check_within(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from small_sweeps import small_sweep
from ambient_sweep.object_store import open_url
from ambient_sweep.sweep import run
from ambient_sweep.sweep.running import cluster
from ambient_sweep.trial import setup
sweep = small_sweep(Path(sys.argv[2]))
for module, name in (cluster, "locked"), (run, "note_begun"), (run, "write_sweep"), (setup, "check_trials"):
    if (child := os.fork()) == 0:
        try:
            setattr(module, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
            run.run_sweep(sweep, open_url(sys.argv[1]) if "://" in sys.argv[1] else Path(sys.argv[1]), echo=str)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, name
"""


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_name_under_which_nothing_was_trained_is_taken_again(
    tmp_path: Path, s3: "S3Server", monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = str(tmp_path / "runs") if kind == "folder" else s3.url(tmp_path.name)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", KILLED, place, str(tmp_path)], check=True, env=environment)
    storage = open_url(place, ".yaml", ".json") if kind == "s3" else Path(place)
    check_unchanged(small_sweep(tmp_path), sweep_folder(storage / "small"))  # `resume` takes it, too
    (storage / "small" / "reference").mkdir()
    (storage / "small" / "reference" / "old.json").touch()

    def no_images(configs: object) -> None:
        assert not (storage / "small" / "reference").exists()
        raise UserError("no images")

    monkeypatch.setattr("ambient_sweep.trial.setup.check_trials", no_images)
    with pytest.raises(UserError, match="no images"):
        run_sweep(small_sweep(tmp_path), storage, echo=str)
    assert not (storage / "small").exists() or not s3.files(tmp_path.name)


@pytest.mark.parametrize("names", [["photo.png"], ["a/b.png"], [".driver.lock", "trials.parquet"]])
def test_a_folder_that_holds_something_is_not_taken(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    with pytest.raises(UserError, match=r"run: a run of this name already exists; move it, or give another --name$"):
        claim(tmp_path / "run", "move it")
