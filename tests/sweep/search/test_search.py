"""What a search hands out, what its study records, and what it remembers when it is resumed; without Ray."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from searches import IMAGES, Halves, ask_all, at, finish, observations, record_of, search_of, searched, sweep_of

from ambient_sweep.errors import UserError
from ambient_sweep.stages.planner import Planner
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.search.search import History, SweepSearch
from ambient_sweep.sweep.search.study import open_study, optuna_distribution, violations
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.stopping.rungs import Decision

REAL = """
space:
  observed.sigma: {uniform: [0.1, 0.5]}
  consistency.weight: {loguniform: [0.1, 10]}
  consistency.chain_steps: {int: [1, 8]}
points: [{observed.sigma: 0.25}]
controls: [{label: plain, seeds: [0, 1], set: {objective.kind: ambient}}]
search: {trials: 6, seed: 3, stopping: {rule: none}}
"""
BARE = REAL.replace("controls", "# controls").replace("points", "# points").replace("trials: 6", "trials: 9")
RUNGS = """
base: {evaluation.lengths: [0.25, 0.5, 1.0]}
space: {observed.sigma: {uniform: [0.1, 0.5]}}
search: {trials: 4, sampler: random}
"""
ENDED = History(ended=True)
UNFINISHED = History(ended=False)


@pytest.fixture
def ids() -> Iterator[str]:
    return (f"t{i}" for i in itertools.count())


def ended(*reports: Report) -> History:
    return History(True, reports)


# -- which trial comes next, and what the study records ---------------------------------------------------------------


def test_fixed_trials_come_first_outside_the_study_and_points_before_draws(tmp_path: Path, ids: Iterator[str]) -> None:
    sweep = sweep_of(tmp_path, REAL)
    search = search_of(sweep)
    given = ask_all(search, ids)
    assert [t.role for t in given] == ["baseline", "control", "control"] + ["search"] * 6
    assert [t.trial_id for t in given] == [f"t{i}" for i in range(9)]
    for trial in given[:3]:
        finish(search, trial.trial_id)
    study = search._record.study
    assert list(searched(study)) == [t.trial_id for t in given[3:]]
    assert {t.state for t in study.get_trials()} == {TrialState.RUNNING}
    assert all(t.values.keys() == sweep.space.keys() for t in given[3:])
    assert given[3].values["observed.sigma"] == 0.25
    for trial in given[3:]:
        assert sweep.config_for(trial.values).observed.sigma == trial.values["observed.sigma"]
        assert searched(study)[trial.trial_id].params == trial.values


FULL = at(1.0, 30.0, 0.1)
DONE = replace(FULL, ending="completed")


@pytest.mark.parametrize(
    ("evaluated", "end", "lost", "state", "values"),
    [
        (FULL, DONE, False, TrialState.COMPLETE, [30.0, 0.1]),
        (None, at(0.5), False, TrialState.PRUNED, None),
        (None, None, False, TrialState.PRUNED, None),
        (None, None, True, TrialState.FAIL, None),
        (FULL, DONE, True, TrialState.FAIL, None),
        (FULL, Report(ending="failed", reason="diverged"), False, TrialState.FAIL, None),
        (at(1.0, math.nan, 0.1), at(1.0, math.nan, 0.1, ending="completed"), False, TrialState.FAIL, None),
        (at(1.0, 30.0, math.inf), at(1.0, 30.0, math.inf, ending="completed"), False, TrialState.FAIL, None),
        (at(1.0, -math.inf), at(1.0, -math.inf, ending="completed"), False, TrialState.FAIL, None),
    ],
)
def test_how_trials_end_in_the_study(
    tmp_path: Path, evaluated: Report | None, end: Report | None, lost: bool, state: TrialState, values: Any
) -> None:
    search = search_of(sweep_of(tmp_path, BARE))
    begin(search, "b", "s")
    if evaluated is not None:
        assert search.evaluated("s", evaluated) == Decision.CONTINUE
    search.ended("s", end, lost=lost)
    trial = searched(search._record.study)["s"]
    assert (trial.state, trial.values, trial.intermediate_values) == (state, values, {})
    assert ("why" in trial.user_attrs) == (state == TrialState.FAIL)
    assert observations(search._record.study) == []


def test_constraints_reach_the_study_and_refuse_what_is_known_before(tmp_path: Path, ids: Iterator[str]) -> None:
    text = """
    space: {model.width: {choice: [16, 1024]}, observed.sigma: {uniform: [0.1, 0.5], step: 0.1}}
    base: {model.kind: mlp}
    search: {trials: 20, constraints: {memorization: 0.2, parameters: 1e5, device_seconds: 50}, stopping: {rule: none}}
    """
    sweep, journal = sweep_of(tmp_path, text), tmp_path / "j"
    more = {"parameters": lambda values: int(values["model.width"]) ** 2}
    search, given = search_of(sweep, journal, **more), []
    while (trial := search.next(next(ids))) is not None:
        given.append(trial)
        search.evaluated(trial.trial_id, at(0.5, 3.0, 0.1, device_seconds=60))
        finish(search, trial.trial_id, 2.0, 0.3, device_seconds=25)
    assert search.finished
    assert not search.proposals.gave_up
    assert sorted(t.values["observed.sigma"] for t in given[1:]) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert {t.values["model.width"] for t in given[1:]} == {16}
    trials = search._record.study.get_trials()
    halves = [t.constraints for t in trials if "observation_of" in t.user_attrs]
    ends = [t.constraints for t in trials if t.state == TrialState.COMPLETE and "trial_id" in t.user_attrs]
    assert halves == [pytest.approx({"memorization": -0.5, "device_seconds": 0.2})] * 5
    assert ends == [pytest.approx({"memorization": 0.5, "device_seconds": -0.5})] * 5
    refused = [t for t in trials if t.user_attrs.get("why", "tried before") != "tried before"]
    assert {(t.state, t.params["model.width"]) for t in refused} == {(TrialState.PRUNED, 1024)}
    assert all(t.constraints == {"parameters": 1024**2 / 1e5 - 1} for t in refused)
    assert "parameters 1,048,576 exceed search.constraints.parameters=100000" in refused[0].user_attrs["why"]
    histories = {t.trial_id: ENDED for t in given}
    assert not search_of(sweep, journal, histories=histories, **more).left


def test_violations_are_shares_of_the_bound() -> None:
    bounds = {"memorization": 0.05, "parameters": 100.0, "fidelity": 0.0, "device_seconds": 3.0}
    found = violations(bounds, Report(memorization=0.06, parameters=50, fidelity=4.0))
    assert found == pytest.approx({"memorization": 0.2, "parameters": -0.5, "fidelity": 4.0})


def test_distributions_become_optunas(tmp_path: Path) -> None:
    space = sweep_of(tmp_path, REAL.replace("int: [1", "logint: [1")).space
    floats = optuna.distributions.FloatDistribution
    assert optuna_distribution(space["observed.sigma"]) == floats(0.1, 0.5)
    assert optuna_distribution(space["consistency.weight"]) == floats(0.1, 10, log=True)
    assert optuna_distribution(space["consistency.chain_steps"]) == optuna.distributions.IntDistribution(1, 8, log=True)


# -- resuming -----------------------------------------------------------------------------------------------------------


def test_a_resumed_search_keeps_what_ended_and_hands_out_the_rest(tmp_path: Path) -> None:
    sweep, journal = sweep_of(tmp_path, REAL), tmp_path / "j"
    first = search_of(sweep, journal)
    given = {name: first.next(name) for name in ("b", "c0", "c1", "s0", "s1", "s2", "s3", "s4")}
    finish(first, "s0", 3.0, 0.5)
    # The driver is killed. s1 had come to its end, s2 failed and s4 was stopped, untold; c1 and s3 run.
    histories = {
        "b": ENDED, "c0": ENDED, "c1": UNFINISHED, "s0": ended(at(1.0, 3.0, 0.5)), "s1": ended(at(1.0, 2.0, 0.75)),
        "s2": ENDED, "s3": UNFINISHED, "s4": History(True, (at(0.5),), stopped=True),
    }  # fmt: skip
    second = search_of(sweep, journal, histories=histories)
    assert second.left
    again = ask_all(second, (f"new{i}" for i in itertools.count()))
    assert [t.trial_id for t in again] == ["c1", "s3", "new2"]
    assert [t.values for t in again[:2]] == [given["c1"].values, given["s3"].values]  # type: ignore[union-attr]
    for trial in again:
        finish(second, trial.trial_id)
    states = {name: (t.state.name, t.values) for name, t in searched(second._record.study).items()}
    assert states == {
        "s0": ("COMPLETE", [3.0, 0.5]), "s1": ("COMPLETE", [2.0, 0.75]), "s2": ("FAIL", None), "s4": ("PRUNED", None),
        "s3": ("COMPLETE", [1.0, 0.1]), "new2": ("COMPLETE", [1.0, 0.1]),
    }  # fmt: skip
    assert not search_of(sweep, journal, histories=histories | dict.fromkeys(("c1", "s3", "new2"), ENDED)).left


def test_a_config_refused_as_tried_before_is_tried(tmp_path: Path, ids: Iterator[str]) -> None:
    """It repeated a proposal that was not trained, since the driver died."""
    sweep = sweep_of(tmp_path, "space: {seed: {int: [0, 1]}}", search__sampler="random")
    record = record_of(sweep, tmp_path / "j")
    record.propose({"seed": 0})
    record.fail(record.propose({"seed": 0}), "tried before")
    given = ask_all(search_of(sweep, tmp_path / "j"), ids)
    assert [t.values for t in given if t.role == "search"] == [{"seed": 0}, {"seed": 1}]


def test_another_process_reads_the_study_with_optuna_alone(tmp_path: Path, ids: Iterator[str]) -> None:
    search = search_of(sweep_of(tmp_path, BARE), tmp_path / "j")
    for trial in itertools.islice(ask_all(search, ids), 1, 4):
        search.evaluated(trial.trial_id, at(0.5, 3.0))
        finish(search, trial.trial_id, 2.0)
    code = """
import json, sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
study = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(sys.argv[1])))
print(json.dumps([[t.state.name, t.params, t.values, t.user_attrs] for t in study.get_trials()]))
"""
    arguments = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "j")]
    read = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    ours = search._record.study.get_trials()
    assert read == [[t.state.name, t.params, t.values, t.user_attrs] for t in ours]
    assert [each[0] for each in read].count("COMPLETE") == 6


def test_a_torn_last_line_does_not_lose_the_study(tmp_path: Path) -> None:
    sweep, journal = sweep_of(tmp_path, REAL), tmp_path / "j"
    search = search_of(sweep, journal)
    names = ("b", "c0", "c1", "s0")
    for name in names:
        search.next(name)
    finish(search, "s0", 3.0, 0.5)
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"work')
    search = search_of(sweep, journal, histories=dict.fromkeys(names, ENDED))
    search.next("s1")
    assert {name: t.values for name, t in searched(record_of(sweep, journal).study).items()} == {
        "s0": [3.0, 0.5], "s1": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "line", ["what is this", "123", "null", "[]", '{"op_code": 99}', '{"op_code": 0}', "[" * 100_000]
)
def test_a_damaged_study_is_named_in_one_line(tmp_path: Path, line: str) -> None:
    sweep = sweep_of(tmp_path, REAL)
    ask_all(search_of(sweep, tmp_path / "j"), (f"t{i}" for i in range(20)))
    with (tmp_path / "j").open("a") as file:
        file.write(f"{line}\n{line}\n")
    with pytest.raises(UserError, match=r"j: damaged \(.+\); restore it") as caught:
        search_of(sweep, tmp_path / "j")
    assert "\n" not in str(caught.value)


def test_a_study_of_other_objectives_is_refused(tmp_path: Path) -> None:
    """For one objective, CMA-ES would open a pickle in it."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "j")))
    optuna.create_study(storage=storage, study_name="s", direction="minimize")
    with pytest.raises(UserError, match=r"j: damaged \(of other objectives\); restore it"):
        open_study("s", optuna.samplers.RandomSampler(), tmp_path / "j")


@pytest.mark.parametrize("text", [None, ""])
def test_trials_without_their_study_are_not_begun_anew(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "j").write_text(text)
    histories = {"b": ENDED, "s0": ended(at(1.0))}
    with pytest.raises(UserError, match=r"study.journal lacks 2 of the 2 trials of this sweep, .*; restore it"):
        search_of(sweep_of(tmp_path, REAL), tmp_path / "j", histories=histories)


def test_a_folder_in_the_studys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(UserError, match=r"j: cannot be read \(Is a directory\)"):
        record_of(sweep_of(tmp_path, REAL), tmp_path / "j")


# -- rungs --------------------------------------------------------------------------------------------------------------


def quality(search: SweepSearch, trial_id: str, fraction: float, value: float, **more: Any) -> Decision:
    return search.evaluated(trial_id, at(fraction, value, value, **more))


def begin(search: SweepSearch, *names: str) -> list[str]:
    """The ids of the trials handed out when asked with these names."""
    return [trial.trial_id for name in names if (trial := search.next(name)) is not None]


def test_promoted_trials_come_first_and_paused_ones_end_once_nothing_is_left(tmp_path: Path) -> None:
    search = search_of(sweep_of(tmp_path, RUNGS))
    assert begin(search, "b", "s0") == ["b", "s0"]
    assert quality(search, "b", 0.25, 0.0) == Decision.CONTINUE, "a fixed trial is compared, and goes on"
    assert quality(search, "s0", 0.25, 2.0) == Decision.PAUSE
    assert search.is_paused("s0")
    assert begin(search, "s1") == ["s1"]
    assert quality(search, "s1", 0.25, 1.0) == Decision.PAUSE
    assert begin(search, "s2") == ["s2"]
    assert quality(search, "s2", 0.25, 3.0) == Decision.PAUSE
    assert begin(search, "x", "s3") == ["s1", "s3"], "of four, the best goes on beside the baseline"
    assert quality(search, "s3", 0.25, 4.0) == Decision.PAUSE
    finish(search, "s1", 1.0, 1.0)
    assert begin(search, "x") == []
    assert not search.finished, "the baseline runs"
    finish(search, "b", 0.0, 0.0)
    assert begin(search, "x") == []
    assert search.finished
    assert {t.trial_id for t in search.end_paused()} == {"s0", "s2", "s3"}
    assert search.trials == {}
    states = {name: t.state.name for name, t in searched(search._record.study).items()}
    assert states == {"s0": "PRUNED", "s1": "COMPLETE", "s2": "PRUNED", "s3": "PRUNED"}
    assert [search.rungs.reached(name) for name in ("b", "s0", "s1")] == [1, 0, 1]


def test_a_teacher_is_not_compared_and_its_generator_is(tmp_path: Path) -> None:
    search = search_of(sweep_of(tmp_path, RUNGS), tmp_path / "j")
    assert begin(search, "b", "s0") == ["b", "s0"]
    assert quality(search, "s0", 0.25, 99.0, teacher=True) == Decision.CONTINUE
    assert search.rungs.reached("s0") is None
    assert observations(search._record.study) == []
    assert quality(search, "s0", 0.5, 1.0) == Decision.PAUSE
    teacher = History(False, (at(0.25, 99.0, teacher=True),), images=at(0.25).images)
    again = search_of(sweep_of(tmp_path, RUNGS), tmp_path / "j", histories={"b": teacher, "s0": teacher})
    assert [again.rungs.reached(name) for name in ("b", "s0")] == [None, None]


def test_the_last_to_go_on_train_side_by_side_and_once(tmp_path: Path) -> None:
    text = RUNGS.replace("space", "baseline: {seeds: [0]}\nspace")
    search = search_of(sweep_of(tmp_path, text, search__trials=3, search__stopping__eta=9), concurrent=2)
    begin(search, "b")
    search.ended("b", Report(ending="failed", reason="diverged"))
    for name in ("s0", "s1", "s2"):
        begin(search, name)
        assert quality(search, name, 0.25, 1.0) == Decision.PAUSE
    assert begin(search, "x", "y") == ["s0", "s1"], "none is better than another"
    assert quality(search, "s0", 0.5, 1.0) == Decision.PAUSE
    assert begin(search, "x", "y") == ["s2"], "not the first again, which has just paused at its next rung"
    finish(search, "s1", 2.0, 2.0)
    finish(search, "s2", 2.0, 2.0)
    assert begin(search, "x", "y") == ["s0"]
    finish(search, "s0")
    assert begin(search, "x") == []
    assert search.finished


def test_a_trial_at_its_full_length_is_not_paused_when_resumed(tmp_path: Path) -> None:
    """It stops at a rung, and was killed between its evaluation and its record's end."""
    text = RUNGS.replace("observed.sigma: {uniform: [0.1, 0.5]}", "training.stop: {choice: [0.5, 1.0]}")
    sweep, journal = sweep_of(tmp_path, text, search__trials=2, search__sampler="grid"), tmp_path / "j"
    first = search_of(sweep, journal)
    assert begin(first, "b", "s0") == ["b", "s0"]
    whole = at(0.5, 1.0, images_left=0)
    assert first.evaluated("s0", whole) == Decision.CONTINUE
    second = search_of(sweep, journal, histories={"b": ENDED, "s0": History(False, (whole,))})
    assert begin(second, "x") == ["s0"]
    second.ended("s0", replace(whole, ending="completed"))
    assert searched(second._record.study)["s0"].values == [1.0, 0.1]


# -- stages and budgets -------------------------------------------------------------------------------------------------


def test_trials_asked_for_at_once_share_what_they_have_in_common(tmp_path: Path) -> None:
    """Tune asks for many trials before it starts the first: none may be one that shares what another is to train."""
    text = """
    base: {training: {images: 6400, batch_size: 64}, evaluation: {lengths: [0.5, 1.0]}}
    space: {observed.sigma: {choice: [0.1, 0.2]}, consistency.weight: {choice: [0.5, 1.0, 2.0, 4.0]}}
    search: {trials: 8, sampler: random, stopping: {rule: none}}
    """
    sweep = sweep_of(tmp_path, text)
    prefixes = Planner(sweep.config_for)
    search = search_of(sweep, planner=prefixes, concurrent=8)
    given = [trial for n in range(10) if (trial := search.next(f"t{n}")) is not None]
    assert sorted(t.values["observed.sigma"] for t in given[1:]) == [0.1, 0.2], "one of each noise level"
    assert not search.finished
    for trial in given:
        search.evaluated(trial.trial_id, at(0.5, images=3200))
    assert search.next("later") is not None, "what they share is stored"


def test_once_the_budget_is_spent_all_end_at_their_next_evaluation(tmp_path: Path) -> None:
    search = search_of(sweep_of(tmp_path, RUNGS), budget=Budget(1000, {"earlier": 300}))
    begin(search, "b", "s0", "s1", "s2")
    assert quality(search, "b", 0.5, 1.0, images_executed=5000) == Decision.CONTINUE
    assert search.budget.executed == 300, "fixed trials do not count"
    assert quality(search, "s0", 0.25, 5.0, images_executed=250) == Decision.PAUSE
    search.ended("s1", Report(ending="failed", reason="diverged", images_executed=250))
    assert search.budget.executed == 800, "what a failed trial trained counts"
    assert quality(search, "s2", 0.25, 0.0, images_executed=250) == Decision.STOP
    search.ended("s2", at(0.25, 0.0, images_executed=250))
    assert begin(search, "x") == [], "though two configs are left, and a paused trial"
    assert not search.finished
    assert quality(search, "b", 1.0, 0.0, images_executed=6000) == Decision.CONTINUE
    finish(search, "b")
    assert begin(search, "x") == []
    assert search.finished
    assert [t.trial_id for t in search.end_paused()] == ["s0"]


def test_once_the_hours_are_over_all_end_and_more_hours_go_on(tmp_path: Path) -> None:
    sweep, now = sweep_of(tmp_path, RUNGS), [0.0]
    search = search_of(sweep, tmp_path / "j", budget=Budget(seconds=3600, clock=lambda: now[0]))
    begin(search, "b", "s0", "s1")
    now[0] = 3600.0
    assert search.budget.spent_by == "search.hours"
    assert quality(search, "s0", 0.25, 5.0) == Decision.PAUSE
    assert quality(search, "s1", 0.25, 0.0) == Decision.STOP
    search.ended("s1", at(0.25, 0.0))
    finish(search, "b")
    assert begin(search, "x") == []
    assert search.finished
    search.took(3600)
    search.end_paused()
    ended = {"b": ENDED, "s0": ENDED, "s1": ENDED}
    again = search_of(sweep, tmp_path / "j", budget=Budget(seconds=0), histories=ended)
    assert (again.seconds, again.left) == (3600, False)
    assert search_of(sweep, tmp_path / "j", budget=Budget(seconds=60), histories=ended).left


def test_what_is_left_of_the_budget_goes_to_paused_trials(tmp_path: Path) -> None:
    """As many at once as may train, the nearest first; and at its full length a trial is not stopped."""
    sweep = sweep_of(tmp_path, RUNGS, search__trials=3, search__stopping__eta=9)
    search = search_of(sweep, budget=Budget(2000), concurrent=2)
    begin(search, "b")
    search.ended("b", Report(ending="failed", reason="diverged"))
    for name, value in (("s0", 3.0), ("s1", 1.0), ("s2", 2.0)):
        begin(search, name)
        assert quality(search, name, 0.25, value, images_executed=250) == Decision.PAUSE
    assert begin(search, "x", "y", "z") == ["s1"], "one goes on in any case"
    assert quality(search, "s1", 0.5, 1.0, images_executed=500) == Decision.PAUSE
    assert begin(search, "x", "y") == ["s1"]
    finish(search, "s1", images_executed=1000)
    assert begin(search, "x", "y", "z") == ["s2", "s0"], "500 images are left"
    assert quality(search, "s2", 0.5, 2.0, images_executed=500) == Decision.PAUSE
    assert quality(search, "s0", 0.5, 3.0, images_executed=500) == Decision.PAUSE
    assert begin(search, "x") == []
    assert search.finished
    assert search.budget.spent


def test_trials_that_run_to_their_ends_are_not_begun_beyond_the_budget(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BARE, search__images=1500)
    search = search_of(sweep, tmp_path / "j", budget=Budget(1500, whole=True))
    assert begin(search, "b", "s0", "s1", "s2") == ["b", "s0", "s1"]
    finish(search, "s0", images_executed=400)
    assert begin(search, "s2") == ["s2"], "the rest was shared: 1,400 are accounted for"
    resumed = search_of(
        sweep, tmp_path / "j", budget=Budget(1500, {"s0": 1500}, whole=True), histories={"s0": ENDED, "s1": UNFINISHED}
    )
    assert begin(resumed, *"wxyz") == ["b", "s1", "s2"], "what began goes on, and nothing else begins"


def test_given_trials_start_cheapest_first_and_none_while_another_trains_its_part(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "space: {observed.sigma: {choice: [0.3, 0.4]}}", search__trials=1)
    search = search_of(sweep, planner=Halves(lambda values: int(values.get("cost", IMAGES))))
    for name in begin(search, "b", "s0"):
        finish(search, name)
    assert begin(search, "x") == []
    assert search.finished
    trials = [
        SweepTrial("replicate", {"cost": cost, "observed.sigma": sigma}, trial_id=f"{sigma}/{cost}")
        for sigma, cost in ((0.1, 3000), (0.1, 1000), (0.2, 2000), (0.2, 4000))
    ]
    search.give(trials)
    assert begin(search, "x", "x", "x") == ["0.1/1000", "0.2/2000"]
    assert search.evaluated("0.1/1000", at(0.5)) == Decision.CONTINUE
    assert search.rungs.reached("0.1/1000") is None, "it is compared with none"
    assert begin(search, "x", "x") == ["0.1/3000"]
    search.ended("0.2/2000")
    assert not search.finished
    assert begin(search, "x", "x") == ["0.2/4000"]
    assert set(search.trials) == {"0.1/1000", "0.1/3000", "0.2/4000"}
    for name in list(search.trials):
        finish(search, name)
    assert begin(search, "x") == []
    assert search.finished
    assert list(searched(search._record.study)) == ["s0"], "they are not in the study"
