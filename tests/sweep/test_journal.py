"""The study's file against Optuna's own storage: the same operations, the same study; torn, killed, written by others."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.journal import StudyJournal, constraint_attrs
from ambient_sweep.sweep.study import open_journal, open_study

SPACE = {
    "f": FloatDistribution(0.05, 0.5, step=0.05),
    "l": FloatDistribution(0.1, 3, log=True),
    "i": IntDistribution(1, 9, step=2),
    "c": CategoricalDistribution(("a", True, None, 2)),
}
PARAMS = {"f": 0.15, "l": 0.7, "i": 5, "c": None}


def as_told(study: optuna.Study) -> list[tuple[object, ...]]:
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.system_attrs, t.constraints)
        for t in study.get_trials()
    ]


def test_it_reads_like_what_optuna_writes(tmp_path: Path) -> None:
    with StudyJournal(tmp_path / "ours") as ours:
        ours.begin("s", 2)
        first = ours.add(PARAMS, SPACE, attrs={"trial_id": "a"}, system={"g": 1})
        second = ours.add({"l": 0.2}, SPACE)
        ours.add(PARAMS, SPACE, TrialState.COMPLETE, values=(1, 2.5), system=constraint_attrs({"m": -0.5}))
        ours.set_attr(second, "why", "no")
        ours.set_system_attr(first, *next(iter(constraint_attrs({"m": 0.25}).items())))
        ours.end(first, TrialState.COMPLETE, (3.0, 4.0))
        ours.end(second, TrialState.FAIL)
        ours.set_study_attr("fixed", ["x", "y"])
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "theirs")))
    theirs = optuna.create_study(storage=storage, study_name="s", directions=["minimize", "minimize"])

    def put(**more: object) -> int:
        return storage.create_new_trial(theirs._study_id, create_trial(**more))

    full = {"params": PARAMS, "distributions": SPACE}
    a = put(state=TrialState.RUNNING, user_attrs={"trial_id": "a"}, system_attrs={"g": 1}, **full)
    b = put(state=TrialState.RUNNING, params={"l": 0.2}, distributions={"l": SPACE["l"]})
    put(values=[1.0, 2.5], constraints={"m": -0.5}, **full)
    storage.set_trial_user_attr(b, "why", "no")
    optuna.Trial(theirs, a).set_constraint("m", 0.25)
    theirs.tell(a, [3.0, 4.0])
    theirs.tell(b, state=TrialState.FAIL)
    theirs.set_user_attr("fixed", ["x", "y"])
    study = open_study(tmp_path / "ours", "s")
    assert as_told(study) == as_told(theirs)
    assert study.user_attrs == theirs.user_attrs
    assert study.directions == [StudyDirection.MINIMIZE] * 2
    assert len(study.best_trials) == len(theirs.best_trials) == 1
    assert all(t.datetime_start and t.duration is not None for t in study.trials)


def test_another_session_goes_on_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for session in range(3):
        journal, trials, attrs = open_journal(path, "s")
        assert len(trials) == session
        assert attrs == ({"seen": session} if session else {})
        with journal:
            number = journal.add({"l": 1.0}, SPACE)
            journal.end(number, TrialState.PRUNED)
            journal.set_study_attr("seen", session + 1)
    assert [(t.number, t.state) for t in open_study(path, "s").trials] == [(i, TrialState.PRUNED) for i in range(3)]


def test_what_optuna_or_its_dashboard_appends_is_taken_into_account(tmp_path: Path) -> None:
    journal, _, _ = open_journal(tmp_path / "j", "s")
    with journal:
        mine = [journal.add({"l": 1.0}, SPACE, attrs={"mine": True})]
        guest = open_study(tmp_path / "j", "s")
        guest.set_user_attr("note", "what a dashboard adds")
        guest.enqueue_trial({"l": 0.5})
        guest.ask()
        mine.append(journal.add({"l": 2.0}, SPACE, attrs={"mine": True}))
        for number in mine:
            journal.end(number, TrialState.COMPLETE, (number, 0.0))
    trials = open_study(tmp_path / "j", "s").trials
    assert [("mine" in t.user_attrs, t.state.name, t.values) for t in trials] == [
        (True, "COMPLETE", [0.0, 0.0]), (False, "RUNNING", None), (True, "COMPLETE", [2.0, 0.0]),
    ]  # fmt: skip
    again, _, _ = open_journal(tmp_path / "j", "s")
    with again:
        assert again.add({"l": 1.0}, SPACE) == 3


def test_a_killed_driver_loses_no_line(tmp_path: Path) -> None:
    code = f"""
    import os, sys
    from pathlib import Path
    from optuna.distributions import FloatDistribution
    from ambient_sweep.sweep.study import open_journal
    journal, _, _ = open_journal(Path({str(tmp_path / "j")!r}), "s")
    for number in range(100_000):
        journal.add({{"x": 0.5}}, {{"x": FloatDistribution(0, 1)}})
        os.write(1, b"%d\\n" % number)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(300):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    last = 299 + len(process.stdout.read().splitlines())
    process.wait()
    assert len(open_study(tmp_path / "j", "s").trials) in (last + 1, last + 2)


def test_a_torn_line_is_cut_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    journal, _, _ = open_journal(tmp_path / "j", "s")
    with journal:
        journal.add({"l": 1.0}, SPACE)
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"op_code":4,"work')
    journal, trials, _ = open_journal(tmp_path / "j", "s")
    assert len(trials) == 1
    with journal:
        assert journal.add({"l": 1.0}, SPACE) == 1
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join([*lines[:1], b"what is this\n", *lines[1:]]))
    with pytest.raises(UserError, match=r"j: damaged"):
        open_journal(tmp_path / "j", "s")


def test_it_reaches_the_disk_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    now = [100.0]
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(len(flushed)))
    monkeypatch.setattr("ambient_sweep.sweep.journal.time.monotonic", lambda: now[0])
    with StudyJournal(tmp_path / "j") as journal:
        journal.begin("s", 2)
        for _ in range(50):
            journal.add({"l": 1.0}, SPACE)
        assert flushed == []
        now[0] += 1.1
        journal.tick()
        journal.tick()
        assert flushed == [0]
        journal.add({"l": 1.0}, SPACE)
    assert flushed == [0, 1]
    assert all(json.loads(line) for line in (tmp_path / "j").read_text().splitlines())
