"""The scheduler with a controller that only records, and with Tune's own in a small sweep of function trials."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.budget import Budget
from ambient_sweep.sweep.cluster import quiet_tune, ray_session
from ambient_sweep.sweep.rungs import Decision, RungSettings
from ambient_sweep.sweep.scheduler import RungRule, SweepScheduler
from ambient_sweep.sweep.session import _load

STOP, PAUSE, CONTINUE = TrialScheduler.STOP, TrialScheduler.PAUSE, TrialScheduler.CONTINUE
RUNGS, FULL = (1, 3), 9


def result(quality: float, images: int, *, evaluated: bool = True, executed: int | None = None) -> dict[str, Any]:
    return {
        "images_executed": images if executed is None else executed,
        "images_left": FULL - images,
        "fidelity": quality,
        "memorization": quality,
        "images": images,
        "fraction": images / FULL,
        "endpoint": "",
        "evaluated": evaluated,
        "done_full_length": not evaluated,
        "failed": None,
        "full_samples": True,
    }


# -- with a controller that records -----------------------------------------------------------------------------------


class FakeTrial:
    """As much of a Tune trial as the scheduler sees."""

    def __init__(self, trial_id: str, role: str = "search", tune_id: str = "") -> None:
        self.trial_id = tune_id or f"tune-{trial_id}"
        self.config = {"trial_id": trial_id, "role": role, "label": "", "values": {"quality": 1.0}}
        self.status = Trial.PENDING

    def set_status(self, status: str) -> None:
        self.status = status


class FakeController:
    """Sorts trials and calls back as Tune's controller does."""

    def __init__(self, scheduler: SweepScheduler, limiter: ConcurrencyLimiter | None = None) -> None:
        self.scheduler, self.finished = scheduler, False
        self.search_alg = SimpleNamespace(is_finished=lambda: self.finished, searcher=limiter)

    def add(self, *trials: FakeTrial) -> None:
        for trial in trials:
            self.scheduler.on_trial_add(self, trial)

    def choose(self) -> FakeTrial | None:
        trial = self.scheduler.choose_trial_to_run(self)
        if trial is not None:
            trial.status = Trial.PENDING
        return trial

    def report(self, trial: FakeTrial, quality: float, images: int, **how: Any) -> str:
        trial.status = Trial.RUNNING
        decision = self.scheduler.on_trial_result(self, trial, result(quality, images, **how))
        if decision == PAUSE:
            trial.status = Trial.PAUSED
        if decision == STOP:
            self.stop_trial(trial)
        return decision

    def stop_trial(self, trial: FakeTrial) -> None:
        if trial.status == Trial.RUNNING:
            self.scheduler.on_trial_complete(self, trial, {})
        else:
            self.scheduler.on_trial_remove(self, trial)
        trial.status = Trial.TERMINATED


class Scripted:
    """A rule that answers what it is told to."""

    def __init__(self, *answers: Decision) -> None:
        self.answers, self.heard, self.over, self.ready = list(answers), list[str](), list[str](), list[str]()
        self.at_the_end, self.waiting, self.others_train = list[str](), list[str](), set[str]()

    def report(self, trial_id: str, values: Mapping[str, Any], result: Mapping[str, Any]) -> Decision:
        self.heard.append(trial_id)
        assert values == {"quality": 1.0}
        assert result["evaluated"]
        return self.answers.pop(0)

    def ended(self, trial_id: str) -> None:
        self.over.append(trial_id)

    def promotable(self, *, final: bool = False) -> list[str]:
        return list(self.ready or (self.at_the_end if final else []))

    def nearest(self, count: int) -> list[str]:
        return self.waiting[:count]

    def busy(self, trial_id: str) -> bool:
        return trial_id in self.others_train

    def reached(self, trial_id: str) -> int | None:
        return None

    def state(self) -> dict[str, Any]:
        return {"heard": self.heard}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.heard = list(state["heard"])


def test_decisions_reach_searched_trials_alone() -> None:
    rule = Scripted(*[Decision.STOP] * 4, Decision.PAUSE, Decision.CONTINUE)
    control = FakeController(SweepScheduler(rule))
    trials = [FakeTrial("s"), *(FakeTrial(role, role) for role in ("baseline", "control", "replicate")), FakeTrial("p")]
    control.add(*trials)
    assert [control.report(t, 1.0, 1) for t in trials] == [STOP, CONTINUE, CONTINUE, CONTINUE, PAUSE]
    assert rule.heard == [t.config["trial_id"] for t in trials], "the rule hears of all"
    assert rule.over == ["s"]
    assert control.report(trials[1], 1.0, FULL, evaluated=False) == CONTINUE, "repeats the last values"
    assert len(rule.answers) == 1


def test_objectives_need_no_metric_of_tune() -> None:
    scheduler = SweepScheduler(Scripted())
    assert scheduler.set_search_properties(None, None, name="x")
    assert scheduler.metric is None
    assert not scheduler.set_search_properties("fidelity", "min")
    assert not scheduler.supports_buffered_results


def test_promoted_trials_come_first_and_new_ones_in_order() -> None:
    rule = Scripted(*[Decision.PAUSE] * 3)
    control = FakeController(SweepScheduler(rule))
    a, b, c, d = (FakeTrial(name) for name in "abcd")
    control.add(a, b, c, d)
    assert control.choose() is control.choose() is a, "asking twice changes nothing"
    for trial in (a, b, c):
        control.report(trial, 1.0, 1)
    assert control.choose() is d
    rule.ready = ["c", "a"]
    c.status = Trial.RUNNING  # still saving: Tune has not paused it yet
    assert control.choose() is a
    c.status = Trial.PAUSED
    assert control.choose() is a, "one at a time: it waits for its worker"
    a.status = Trial.RUNNING
    assert control.choose() is c
    assert control.scheduler.state()["paused"] == ["b"]


def test_no_more_restart_at_once_than_may_train() -> None:
    rule = Scripted(*[Decision.PAUSE] * 3, Decision.CONTINUE)
    control = FakeController(SweepScheduler(rule, concurrent=2))
    trials = [FakeTrial(name) for name in "abcd"]
    control.add(*trials)
    for trial in trials:
        control.report(trial, 1.0, 1)
    rule.ready = ["a", "b"]
    assert control.choose() is trials[0]
    trials[0].status = Trial.RUNNING
    assert control.choose() is None, "d and a train"
    trials[3].status = Trial.RUNNING
    control.stop_trial(trials[3])
    assert control.choose() is trials[1]


def test_paused_trials_are_stopped_once_nothing_else_is_left() -> None:
    rule = Scripted(Decision.PAUSE, Decision.PAUSE, Decision.CONTINUE)
    control = FakeController(SweepScheduler(rule))
    a, b, c = (FakeTrial(name) for name in "abc")
    control.add(a, b, c)
    for trial in (a, b, c):
        control.report(trial, 1.0, 1)
    control.finished = True
    assert control.choose() is None
    assert a.status == b.status == Trial.PAUSED, "c still trains, and may free a place or change the ranks"
    control.stop_trial(c)
    control.finished = False
    assert control.choose() is None
    assert a.status == Trial.PAUSED, "more trials may come"
    control.finished = True
    control.choose()
    assert a.status == b.status == Trial.TERMINATED
    assert rule.over == ["c", "a", "b"]


def test_the_last_to_go_on_train_side_by_side() -> None:
    rule = Scripted(*[Decision.PAUSE] * 5)
    control = FakeController(SweepScheduler(rule, concurrent=2))
    trials = [FakeTrial(name) for name in "abcd"]
    control.add(*trials)
    for trial in trials:
        control.report(trial, 1.0, 1)
    control.finished, rule.at_the_end = True, ["a", "b", "c"]
    assert control.choose() is trials[0]
    trials[0].status = Trial.RUNNING
    assert control.choose() is trials[1]
    trials[1].status = Trial.RUNNING
    assert control.choose() is None, "there is room for two"
    control.report(trials[0], 1.0, 3)
    assert control.choose() is trials[2], "not the first again, which has just paused at its next rung"
    for trial in trials[1:3]:
        trial.status = Trial.RUNNING
        control.stop_trial(trial)
    rule.at_the_end = []
    assert control.choose() is None
    assert rule.over == ["b", "c", "d", "a"]


def test_once_the_budget_is_spent_all_end_at_their_next_evaluation() -> None:
    rule = Scripted(Decision.PAUSE, *[Decision.CONTINUE] * 4, Decision.PAUSE, Decision.CONTINUE)
    budget = Budget(10, {"earlier": 4})
    control = FakeController(SweepScheduler(rule, concurrent=4, budget=budget))
    paused, b, c, control_trial, replicate = (
        FakeTrial(name, role)
        for name, role in (("a", "search"), ("b", "search"), ("c", "search"), ("d", "control"), ("e", "replicate"))
    )
    control.add(paused, b, c, control_trial, replicate)
    assert control.report(paused, 1.0, 1) == PAUSE
    assert control.report(control_trial, 1.0, 3, executed=100) == CONTINUE, "what is not searched does not count"
    assert control.report(b, 1.0, 3) == CONTINUE, "8 of 10"
    assert control.report(c, 1.0, FULL, executed=2) == CONTINUE, "10 of 10, but it has nothing left to train"
    assert control.report(b, 1.0, 6, executed=3) == STOP
    assert control.report(replicate, 1.0, 3, executed=0) == STOP, "it trains on whatever the rule says, but for this"
    assert control.report(control_trial, 1.0, 6, executed=200) == CONTINUE
    assert budget.executed == 10


def test_a_spent_budget_promotes_none() -> None:
    rule = Scripted(*[Decision.PAUSE] * 2)
    control = FakeController(SweepScheduler(rule, concurrent=2, budget=Budget(2)))
    a, b = FakeTrial("a"), FakeTrial("b")
    control.add(a, b)
    for trial in (a, b):
        control.report(trial, 1.0, 1)
    rule.ready = rule.at_the_end = rule.waiting = ["a", "b"]
    assert control.choose() is None
    assert a.status == Trial.PAUSED, "more trials may come, as far as the scheduler knows"
    control.finished = True
    assert control.choose() is None
    assert a.status == b.status == Trial.TERMINATED


def test_what_is_left_of_the_budget_goes_to_paused_trials() -> None:
    """As many at once as may train, the nearest first, and none of which another trains a part."""
    rule = Scripted(*[Decision.PAUSE] * 9)
    control = FakeController(SweepScheduler(rule, concurrent=2, budget=Budget(10)))
    _, b, c, d = trials = [FakeTrial(name) for name in "abcd"]
    control.add(*trials)
    for trial in trials:
        control.report(trial, 1.0, 1)
    control.finished = True
    rule.waiting = ["c", "b", "a", "d"]
    assert control.choose() is c
    c.status, rule.others_train = Trial.RUNNING, {"b"}
    assert control.choose() is None, "b waits for what c trains"
    rule.others_train = set()
    assert control.choose() is b
    b.status = Trial.RUNNING
    control.report(c, 1.0, 3)
    assert control.choose() is None, "a and d are of the next round, in the order that will be then"
    control.report(b, 1.0, 3)
    rule.waiting = ["d", "a", "c", "b"]
    assert control.choose() is d
    d.status = Trial.RUNNING
    control.report(d, 1.0, 3)  # 10 of 10
    assert control.choose() is None
    assert {trial.status for trial in trials} == {Trial.TERMINATED}


def test_without_a_budget_the_rule_alone_says_who_goes_on_last() -> None:
    rule = Scripted(Decision.PAUSE)
    control = FakeController(SweepScheduler(rule, concurrent=2))
    trial = FakeTrial("a")
    control.add(trial)
    control.report(trial, 1.0, 1)
    control.finished, rule.waiting = True, ["a"]
    assert control.choose() is None
    assert trial.status == Trial.TERMINATED


def test_a_lost_trial_goes_on() -> None:
    rule = Scripted(Decision.PAUSE, Decision.CONTINUE)
    control = FakeController(SweepScheduler(rule))
    trial = FakeTrial("a")
    control.add(trial)
    control.report(trial, 1.0, 1)
    control.scheduler.on_trial_error(control, trial)  # as Tune does: told of the error, then added again
    trial.status = Trial.PENDING
    control.add(trial)
    assert control.choose() is trial
    assert control.report(trial, 1.0, 3) == CONTINUE


def test_paused_trials_give_their_place_in_tunes_limit_away() -> None:
    class Endless(Searcher):
        told: list[str] = []  # noqa: RUF012

        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            self.told.append(trial_id)

    limiter = ConcurrencyLimiter(Endless(), max_concurrent=1)
    rule = Scripted(Decision.PAUSE, Decision.PAUSE)
    control = FakeController(SweepScheduler(rule), limiter)
    a, b = FakeTrial("a"), FakeTrial("b")
    control.add(a)
    assert limiter.suggest(a.trial_id) == {}
    assert limiter.suggest("other") is None
    control.report(a, 1.0, 1)
    assert limiter.suggest(b.trial_id) == {}
    control.add(b)
    rule.ready = ["a"]
    assert control.choose() is a
    assert limiter.live_trials == {a.trial_id, b.trial_id}
    control.report(b, 1.0, 1)
    control.stop_trial(b)  # from its pause
    limiter.on_trial_complete(b.trial_id)
    assert Endless.told == [b.trial_id], "the searcher hears of its end"


def test_saved_state_keeps_paused_trials_paused(tmp_path: Path) -> None:
    settings = RungSettings(eta=2.0, levels=RUNGS, variant="promote")
    scheduler = SweepScheduler(RungRule(settings))
    control = FakeController(scheduler)
    trials = [FakeTrial(f"t{n}") for n in range(3)]
    control.add(*trials)
    for n, trial in enumerate(trials):
        control.report(trial, float(n), 1)
    assert [t.status for t in trials] == [Trial.PAUSED] * 3
    scheduler.save(str(tmp_path / "state"))
    assert json.loads((tmp_path / "state").read_text())["paused"] == ["t0", "t1", "t2"]

    again = SweepScheduler(RungRule(settings))
    again.restore(str(tmp_path / "state"))
    assert again.state() == scheduler.state()
    control = FakeController(again)
    resumed = [FakeTrial(f"t{n}", tune_id=f"second-{n}") for n in (2, 0)]
    control.add(*resumed, fresh := FakeTrial("fresh"))
    assert [t.status for t in resumed] == [Trial.PAUSED, Trial.PAUSED]
    assert control.choose() is resumed[1], "the best of the rung, paused in the earlier session"
    resumed[1].status = Trial.RUNNING
    assert control.choose() is fresh


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: "[" * 100_000,
        lambda state: "null",
        lambda state: json.dumps({**state, "rule": {**state["rule"], "brackets": {"t0": -9}}}),
        lambda state: json.dumps({**state, "rule": {**state["rule"], "rungs": [{}]}}),
        lambda state: json.dumps({**state, "rule": {**state["rule"], "brackets": {"t0": "x"}}}),
    ],
)
def test_a_damaged_state_is_told_in_one_line(tmp_path: Path, damage: Callable[[dict[str, Any]], str]) -> None:
    rule = RungRule(RungSettings(levels=RUNGS, brackets=2))
    path = tmp_path / "scheduler.json"
    path.write_text(damage(SweepScheduler(rule).state()))
    with pytest.raises(UserError, match=r"scheduler\.json: cannot be read") as caught:
        _load(SweepScheduler(rule), path)
    assert "\n" not in str(caught.value)


# -- with Tune --------------------------------------------------------------------------------------------------------


class Listed(Searcher):
    """Hands out suggestions as the sweep's searcher does, and writes down what it is told."""

    def __init__(self, suggestions: list[dict[str, Any]]) -> None:
        super().__init__(metric=None, mode=None)
        self.left, self.ends = list(suggestions), dict[str, Any]()
        self.names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        if not self.left:
            return Searcher.FINISHED
        suggestion = self.left.pop(0)
        self.names[trial_id] = suggestion["trial_id"]
        return suggestion

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.ends[self.names[trial_id]] = (result or {}).get("images", 0), error

    def save(self, checkpoint_path: str) -> None:
        pass


def train(suggestion: dict[str, Any], folder: str) -> None:
    """Goes on from the trial's own folder, as the real one does; the one named so is lost once, in the midst."""
    notes = Path(folder) / suggestion["trial_id"]
    notes.parent.mkdir(exist_ok=True)
    done = [int(line) for line in notes.read_text().split()] if notes.exists() else []
    for images in (*RUNGS, FULL):
        if images in done:
            continue
        time.sleep(0.05)
        with notes.open("a") as file:
            file.write(f"{images}\n")
        if suggestion["values"].get("lost") and images == FULL:
            raise RuntimeError("lost")
        tune.report(result(suggestion["values"]["quality"], images))
    tune.report(result(suggestion["values"]["quality"], FULL, evaluated=False))


@pytest.mark.parametrize("variant", ["promote", "stop"])
def test_tune_pauses_promotes_and_stops(variant: Any, tmp_path: Path) -> None:
    qualities = [5.0, 4.0, 8.0, 1.0, 7.0, 3.0, 6.0, 2.0, 0.0]
    suggestions = [
        {"trial_id": f"q{quality:g}", "role": "search", "label": "", "values": {"quality": quality, "lost": n == 8}}
        for n, quality in enumerate(qualities)
    ]
    base = {"trial_id": "base", "role": "baseline", "label": "base", "values": {"quality": 99.0}}
    searcher = Listed([base, *suggestions])
    rule = RungRule(RungSettings(eta=3.0, levels=RUNGS, variant=variant))
    scheduler = SweepScheduler(rule)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    with quiet_tune(), ray_session(dashboard=False):
        tune.run(
            tune.with_parameters(train, folder=str(tmp_path / "trials")),
            name="session-1",
            storage_path=str(tmp_path / "ray"),
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=2,
            resources_per_trial={"CPU": 1},
            max_failures=1,
            raise_on_failed_trial=False,
            reuse_actors=True,
            verbose=0,
        )
    reached = {path.name: [int(x) for x in path.read_text().split()] for path in (tmp_path / "trials").iterdir()}
    assert set(reached) == set(searcher.ends) == {"base", *(f"q{q:g}" for q in qualities)}
    assert all(images == sorted(set(images)) for images in reached.values()), "nothing is trained twice"
    assert reached["base"] == [1, 3, 9], "never stopped, however bad"
    assert reached["q0"] == [1, 3, 9], "lost at its last step, it goes on"
    assert not any(error for _, error in searcher.ends.values())
    stopped = [name for name, images in reached.items() if images[-1] < FULL]
    assert "q8" in stopped
    if variant == "promote":
        # Of the 10 at the first rung the best 3 go on in the end, whatever came when.
        assert all(3 in reached[name] for name in ("q0", "q1", "q2"))
        assert rule.rungs.paused == [], "those that were left were stopped"
    assert scheduler.state()["paused"] == []
    assert {n: searcher.ends[n][0] for n in reached if n not in stopped} == {
        n: FULL for n in reached if n not in stopped
    }
