"""MO-ASHA's rungs against a version by the definition, and the properties that such a rule must have."""

import json
import math
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ambient_sweep.sweep.rules import RungRule, Stratum, stopping_rule
from ambient_sweep.sweep.rungs import Decision, Rungs, RungSettings

from ambient_sweep import pareto
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space import load_sweep

STOP, PAUSE, CONTINUE = Decision.STOP, Decision.PAUSE, Decision.CONTINUE
NAN, INF = math.nan, math.inf


# -- by the definition ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    trial_id: str
    values: tuple[float, ...]
    feasible: bool

    @property
    def group(self) -> int:
        return 2 if not all(map(math.isfinite, self.values)) else 0 if self.feasible else 1


def dominates(a: Entry, b: Entry) -> bool:
    return a.values != b.values and all(x <= y for x, y in zip(a.values, b.values, strict=True))


def front_of(entries: list[Entry], entry: Entry) -> tuple[int, list[Entry]]:
    left, rank = [e for e in entries if e.group == entry.group], 0
    while True:
        front = [e for e in left if not any(dominates(o, e) for o in left)]
        if entry in front:
            return rank, front
        left, rank = [e for e in left if e not in front], rank + 1


def crowding(front: list[Entry], entry: Entry) -> float:
    total, rows = 0.0, {e.values for e in front}
    if len(rows) == 1:
        return INF
    for m, own in enumerate(entry.values):
        levels = {row[m] for row in rows}
        if len(levels) > 1:
            below, above = [v for v in levels if v < own], [v for v in levels if v > own]
            total += INF if not below or not above else (min(above) - max(below)) / (max(levels) - min(levels))
    return total


def place(entries: list[Entry], entry: Entry) -> int:
    def key(e: Entry) -> tuple[float, ...]:
        if e.group == 2:
            return (2, 0, 0)
        rank, front = front_of(entries, e)
        return (e.group, rank, -crowding(front, e))

    return sum(key(other) < key(entry) for other in entries)


class ByDefinition:
    """Stops and promotes by sorting everything anew each time."""

    def __init__(self, eta: float, positions: tuple[int, ...], variant: str) -> None:
        self.eta, self.positions, self.variant = eta, positions, variant
        self.entries: dict[tuple[int, Hashable], list[Entry]] = {}
        self.reached: dict[str, int] = {}
        self.paused: dict[str, tuple[int, Hashable]] = {}

    def report(self, trial_id: str, position: int, values: tuple[float, ...], stratum: Hashable, feasible: bool) -> str:
        self.paused.pop(trial_id, None)
        passed = [n for n, rung in enumerate(self.positions) if rung <= position]
        if not passed or passed[-1] <= self.reached.get(trial_id, -1):
            return CONTINUE
        self.reached[trial_id] = passed[-1]
        entries = self.entries.setdefault((passed[-1], stratum), [])
        entries.append(Entry(trial_id, values, feasible))
        keeps = int(len(entries) // self.eta)
        good = place(entries, entries[-1]) < keeps
        if self.variant == "stop":
            return CONTINUE if good or keeps == 0 else STOP
        if good:
            return CONTINUE
        self.paused[trial_id] = (passed[-1], stratum)
        return PAUSE

    def promotable(self) -> list[str]:
        order = []
        for trial_id, key in self.paused.items():
            entries = self.entries[key]
            row = next(n for n, e in enumerate(entries) if e.trial_id == trial_id)
            where = place(entries, entries[row])
            if where < len(entries) // self.eta:
                order.append((-key[0], where, row, trial_id))
        return [trial_id for *_, trial_id in sorted(order)]


def draw(rng: np.random.Generator, objectives: int = 2) -> tuple[float, ...]:
    values = rng.integers(0, 6, objectives).astype(float) if rng.random() < 0.7 else rng.normal(size=objectives)
    if rng.random() < 0.06:
        values[rng.integers(objectives)] = rng.choice([NAN, INF, -INF])
    return tuple(values.tolist())


@dataclass(frozen=True)
class Reported:
    trial_id: str
    position: int
    values: tuple[float, ...]
    stratum: Hashable
    feasible: bool


def sequence(rng: np.random.Generator, *, trials: int = 14, strata: int = 2, objectives: int = 2) -> list[Reported]:
    """Reports of several trials, interleaved; positions jump over rungs and fall between them."""
    position = dict.fromkeys(range(trials), 0)
    reports = []
    for _ in range(3 * trials):
        trial = int(rng.integers(trials))
        position[trial] += int(rng.integers(1, 7))
        stratum = ("sigma", trial % strata) if strata > 1 else None
        values, feasible = draw(rng, objectives), bool(rng.random() < 0.85)
        reports.append(Reported(f"t{trial}", position[trial], values, stratum, feasible))
    return reports


def feed(rungs: Rungs, reports: Sequence[Reported]) -> list[Decision]:
    return [
        rungs.report(r.trial_id, r.position, r.values, stratum=r.stratum, feasible=r.feasible) for r in reports
    ]  # fmt: skip


@pytest.mark.parametrize("variant", ["stop", "promote"])
def test_thousands_of_sequences_are_decided_as_by_the_definition(variant: Any) -> None:
    rng = np.random.default_rng(40)
    decided = []
    for _ in range(1000):
        eta, objectives = float(rng.choice([1.5, 2.0, 3.0, 4.0])), int(rng.integers(1, 4))
        levels = tuple(sorted(rng.choice(np.arange(1, 16), int(rng.integers(1, 4)), replace=False).tolist()))
        rungs = Rungs(RungSettings(eta=eta, levels=levels, variant=variant, directions=(1,) * objectives))
        slow = ByDefinition(eta, levels, variant)
        for r in sequence(rng, trials=6, strata=int(rng.integers(1, 3)), objectives=objectives):
            decision = rungs.report(r.trial_id, r.position, r.values, stratum=r.stratum, feasible=r.feasible)
            assert decision == slow.report(r.trial_id, r.position, r.values, r.stratum, r.feasible)
            assert variant == "stop" or rungs.promotable() == slow.promotable()
            decided.append(decision)
    assert min(decided.count(each) for each in (CONTINUE, STOP if variant == "stop" else PAUSE)) > 1000


@pytest.mark.parametrize("ties", ["crowding", "epsilon"])
def test_deciding_early_equals_sorting_all(ties: Any) -> None:
    rng = np.random.default_rng(41)
    for _ in range(50):
        settings = RungSettings(eta=float(rng.choice([1.5, 2, 3])), levels=(1,), ties=ties, variant="stop")
        rungs, values, feasible = Rungs(settings), [], []
        for n in range(int(rng.integers(5, 60))):
            values.append(draw(rng))
            feasible.append(bool(rng.random() < 0.8))
            decision = rungs.report(f"t{n}", 1, values[-1], feasible=feasible[-1])
            keeps = int(len(values) // settings.eta)
            good = pareto.places(values, feasible, ties=ties)[-1] < keeps
            assert decision == (CONTINUE if good or keeps == 0 else STOP)


def test_places_count_what_is_strictly_better() -> None:
    values = [[0, 2], [2, 0], [1, 1], [1, 1], [3, 3], [0, 0], [9, 9], [NAN, 0], [0, INF]]
    feasible = [True, True, True, True, True, False, False, True, False]
    assert pareto.places(values, feasible).tolist() == [0, 0, 2, 2, 4, 5, 6, 7, 7]
    # The net takes (0, 2), then the far end (2, 0), then what is between.
    assert pareto.places(values, feasible, ties="epsilon").tolist() == [0, 1, 2, 2, 4, 5, 6, 7, 7]
    assert pareto.places(np.empty((0, 2)), []).tolist() == []


# -- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", ["crowding", "epsilon"])
@pytest.mark.parametrize("variant", ["stop", "promote"])
def test_who_dominates_its_rung_goes_on_and_who_is_dominated_by_all_does_not(ties: Any, variant: Any) -> None:
    rng = np.random.default_rng(42)
    for _ in range(300):
        eta = float(rng.choice([1.5, 2, 3, 5]))
        settings = RungSettings(eta=eta, levels=(10,), ties=ties, variant=variant)
        others = [draw(rng) for _ in range(int(rng.integers(1, 20)))]
        finite = np.array([v for v in others if all(map(math.isfinite, v))] or [[0.0, 0.0]])
        best, worst = tuple(finite.min(axis=0) - 1), tuple(finite.max(axis=0) + 1)
        for values, loses in ((best, False), (worst, True)):
            rungs = Rungs(settings)
            for n, other in enumerate(others):
                rungs.report(f"t{n}", 10, other)
            decision = rungs.report("it", 10, values)
            full = len(others) + 1 >= eta
            if not loses:
                assert decision == CONTINUE or (variant == "promote" and not full)
                assert decision == CONTINUE or "it" not in rungs.promotable()
            elif full and len(finite) == len(others):
                assert decision == (STOP if variant == "stop" else PAUSE)
                assert "it" not in rungs.promotable()


def transformed(reports: list[Reported], change: Callable[[Sequence[float]], Sequence[float]]) -> list[Reported]:
    return [replace(r, values=tuple(change(r.values))) for r in reports]


@pytest.mark.parametrize("ties", ["crowding", "epsilon"])
@pytest.mark.parametrize("variant", ["stop", "promote"])
def test_decisions_depend_on_neither_scale_nor_sign_nor_names(ties: Any, variant: Any) -> None:
    rng = np.random.default_rng(43)
    base = RungSettings(eta=2.0, levels=(2, 6), ties=ties, variant=variant)
    for _ in range(60):
        reports = sequence(rng)
        expected = feed(Rungs(base), reports)
        units = (2.0 ** rng.integers(-6, 7, 2)).tolist()
        signs = rng.choice([1, -1], 2).tolist()
        scaled = transformed(reports, lambda v: [x * u for x, u in zip(v, units, strict=True)])  # noqa: B023
        assert feed(Rungs(base), scaled) == expected
        signed = transformed(reports, lambda v: [x * s for x, s in zip(v, signs, strict=True)])  # noqa: B023
        assert feed(Rungs(replace(base, directions=tuple(signs))), signed) == expected
        own = Rungs(replace(base, scales=(1.0, 1.0)))
        assert feed(Rungs(replace(base, scales=tuple(units))), scaled) == feed(own, reports)
        renamed = [replace(r, trial_id=f"other-{99 - int(r.trial_id[1:])}") for r in reports]
        assert feed(Rungs(base), renamed) == expected


@pytest.mark.parametrize("ties", ["crowding", "epsilon"])
def test_decision_does_not_depend_on_the_order_of_those_before(ties: Any) -> None:
    rng = np.random.default_rng(44)
    for _ in range(120):
        settings = RungSettings(eta=2.0, levels=(1,), ties=ties, variant="promote")
        entries = [(f"t{n}", draw(rng)) for n in range(int(rng.integers(1, 12)))]  # ties and duplicates abound
        last, seen = draw(rng), set()
        for _ in range(4):
            rungs = Rungs(settings)
            for n in rng.permutation(len(entries)):
                rungs.report(entries[n][0], 1, entries[n][1])
            decision = rungs.report("it", 1, last)
            (rung,) = rungs._rungs.values()
            kept = {t for t, _ in entries if rung.goes_on(t)}
            seen.add((decision, frozenset(kept)))
        assert len(seen) == 1


def test_equal_trials_go_together() -> None:
    rungs = Rungs(RungSettings(eta=2.0, levels=(1,)))
    for n in range(6):
        assert rungs.report(f"t{n}", 1, (1.0, 1.0)) == CONTINUE, "none is better, so none is worse"
    assert rungs.report("worse", 1, (1.0, 2.0)) == STOP
    assert rungs.report("nan", 1, (NAN, 0.0)) == STOP
    assert rungs.report("infeasible", 1, (0.0, 0.0), feasible=False) == STOP
    assert rungs.report("better", 1, (0.5, 1.0)) == CONTINUE


@pytest.mark.parametrize("variant", ["stop", "promote"])
def test_saved_half_way_decides_the_same(variant: Any) -> None:
    rng = np.random.default_rng(45)
    for _ in range(60):
        settings = RungSettings(eta=2.0, levels=(2, 6, 11), variant=variant, brackets=int(rng.integers(1, 4)))
        reports, half = sequence(rng), int(rng.integers(1, 40))
        whole, begun = Rungs(settings), Rungs(settings)
        expected = feed(whole, reports)
        assert feed(begun, reports[:half]) == expected[:half]
        begun.ended("t3")
        whole_paused = begun.paused
        restored = Rungs.restore(settings, json.loads(json.dumps(begun.state(), allow_nan=False)))
        assert restored.paused == whole_paused
        assert restored.promotable() == begun.promotable()
        assert restored.state() == begun.state()
        assert feed(restored, reports[half:]) == expected[half:]
        assert restored.promotable() == [t for t in whole.promotable() if t in restored.paused]


def test_promoting_loses_no_trial() -> None:
    """Trials run until nothing may go on: each is finished, or waits; and of every rung one of eta went on."""
    rng = np.random.default_rng(46)
    for _ in range(60):
        levels, full = (3, 9), 27
        settings = RungSettings(eta=3.0, levels=levels, variant="promote")
        rungs, quality = Rungs(settings), {f"t{n}": draw(rng) for n in range(int(rng.integers(1, 40)))}
        at, finished, fresh = dict.fromkeys(quality, 0), set(), list(quality)
        while (ready := rungs.promotable()) or fresh:
            trial = ready[0] if ready else fresh.pop(0)
            for position in (*levels, full):
                if position <= at[trial]:
                    continue
                at[trial] = position
                decision = rungs.report(trial, position, quality[trial], last=position == full)
                assert decision != STOP
                if decision == PAUSE:
                    break
            else:
                rungs.ended(trial)
                finished.add(trial)
        assert finished | set(rungs.paused) == set(quality)
        assert not finished & set(rungs.paused)
        reached = [sum(p >= level for p in at.values()) for level in (*levels, full)]
        assert all(above >= below // 3 for below, above in pairwise(reached))


# -- where rungs lie --------------------------------------------------------------------------------------------------


def test_reports_between_rungs_and_over_several() -> None:
    rungs = Rungs(RungSettings(eta=2.0, levels=(10, 20, 40)))
    for n in range(8):
        assert rungs.report(f"good{n}", 5, (9.0, 9.0)) == CONTINUE, "before the first rung"
        rungs.report(f"good{n}", 45, (0.0, 0.0))
    assert rungs.report("a", 12, (5.0, 5.0)) == CONTINUE, "the others jumped over this rung and have no entry there"
    assert rungs.report("a", 15, (9.0, 9.0)) == CONTINUE, "between rungs"
    assert rungs.report("a", 19, (NAN, NAN)) == CONTINUE
    assert rungs.report("b", 11, (6.0, 6.0)) == STOP
    assert rungs.report("a", 41, (5.0, 5.0)) == STOP, "at the highest one it is compared with those that jumped there"
    assert rungs.report("c", 60, (5.0, 5.0), last=True) == CONTINUE, "a training that is over is not stopped"


def test_rungs_of_a_phase_count_from_its_start() -> None:
    rungs = Rungs(RungSettings(eta=2.0, levels=(10,), relative_to="phase"))
    assert rungs.report("early", 10, (1.0, 1.0), phase_start=0) == CONTINUE
    assert rungs.report("late", 100, (9.0, 9.0), phase_start=95) == CONTINUE, "its phase has hardly begun"
    assert rungs.report("late", 105, (9.0, 9.0), phase_start=95) == STOP


def test_geometric_rungs_lie_below_the_full_length() -> None:
    assert RungSettings(eta=3.0, grace=100, length=2700).positions == (100, 300, 900)
    assert RungSettings(eta=2.0, grace=100, length=801).positions == (100, 200, 400, 800)
    assert RungSettings(eta=1.2, grace=1, length=5).positions == (1, 2, 3, 4), "steps that round to the same are one"


def test_brackets_share_the_trials_and_leave_rungs_out() -> None:
    settings = RungSettings(eta=3.0, levels=(1, 3, 9), brackets=3)
    rungs = Rungs(settings)
    for n in range(280):
        rungs.report(f"t{n}", 0, (0.0, 0.0))
    shares = np.bincount(list(rungs._brackets.values()))
    due = np.array([27 / 4, 9 / 3, 3 / 2])
    assert shares == pytest.approx(280 * due / due.sum(), abs=1)
    last = [t for t, bracket in rungs._brackets.items() if bracket == 2]
    for trial in last[:6]:
        assert rungs.report(trial, 3, (0.0, 0.0)) == CONTINUE
    assert rungs.report(last[6], 3, (1.0, 1.0)) == CONTINUE, "its bracket has no rung there"
    for trial in last[:3]:
        rungs.report(trial, 9, (0.0, 0.0))
    assert rungs.report(last[6], 9, (1.0, 1.0)) == STOP


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"eta": 1.0},
        {"directions": (1, 0)},
        {"scales": (1.0,)},
        {"scales": (1.0, 0.0)},
        {"levels": (3, 3)},
        {"levels": (0, 3)},
        {"brackets": 3},
        {"variant": "kill"},
        {"ties": "order"},
        {"relative_to": "end"},
    ):
        with pytest.raises(UserError, match="rungs"):
            RungSettings(**{"levels": (1, 2), **wrong})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="give the levels"):
        RungSettings()
    with pytest.raises(UserError, match="keep the settings"):
        Rungs.restore(RungSettings(levels=(1, 2)), Rungs(RungSettings(levels=(1, 3))).state())
    with pytest.raises(ValueError, match="2 values"):
        Rungs(RungSettings(levels=(1,))).report("t", 1, (1.0,))


# -- the rule ---------------------------------------------------------------------------------------------------------


def result(fidelity: float, memorization: float, images: int = 10, fraction: float = 0.1) -> dict[str, Any]:
    return {"fidelity": fidelity, "memorization": memorization, "images": images, "fraction": fraction}


def test_strata_and_their_bins() -> None:
    exact, wide, powers = Stratum("s"), Stratum("s", 0.1), Stratum("s", 2.0, log=True)
    assert [wide.of({"s": v}) for v in (0.0, 0.05, 0.1, 0.3, 0.35, -0.01)] == [0, 0, 1, 3, 3, -1]
    assert [powers.of({"s": v}) for v in (1, 1.9, 2, 4, 0.5, 0, -1)] == [0, 0, 1, 2, -1, None, None]
    assert [exact.of({"s": v}) for v in ("a", 0.3, [1, 2])] == ["a", 0.3, (1, 2)]
    assert wide.of({}) is None
    with pytest.raises(UserError, match="not a number"):
        wide.of({"s": "a"})
    for width, log in ((0.0, False), (1.0, True), (None, True), (NAN, False)):
        with pytest.raises(UserError, match="width of s"):
            Stratum("s", width, log)


def test_rule_compares_within_strata_and_bounds_make_infeasible() -> None:
    rule = RungRule(
        RungSettings(eta=2.0, levels=(10,)),
        strata=[Stratum("observed.sigma", 0.1), Stratum("model.width")],
        bounds={"memorization": 0.05},
    )
    values = {"observed.sigma": 0.12, "model.width": 64}
    assert rule.report("a", values, result(1.0, 0.04)) == CONTINUE
    assert rule.report("b", values | {"observed.sigma": 0.22}, result(9.0, 0.04)) == CONTINUE
    assert rule.report("c", values | {"model.width": 32}, result(9.0, 0.04)) == CONTINUE
    assert rule.report("d", values | {"observed.sigma": 0.15}, result(9.0, 0.04)) == STOP
    assert rule.report("e", values, result(0.1, 0.051)) == STOP, "better in fidelity, but beyond the bound"
    restored = RungRule(RungSettings(eta=2.0, levels=(10,)), strata=[Stratum("observed.sigma", 0.1)])
    restored.restore(json.loads(json.dumps(rule.state())))
    assert restored.state() == rule.state()


def test_rule_of_a_phase_and_its_refusals() -> None:
    settings = RungSettings(eta=2.0, levels=(10,), relative_to="phase")
    rule = RungRule(settings, phase_start=lambda values: values["start"])
    assert rule.report("a", {"start": 0}, result(0.0, 0.0, images=10)) == CONTINUE
    assert rule.report("b", {"start": 20}, result(1.0, 1.0, images=25)) == CONTINUE
    assert rule.report("b", {"start": 20}, result(1.0, 1.0, images=30)) == STOP
    assert rule.report("c", {"start": 20}, result(1.0, 1.0, images=30, fraction=1.0)) == CONTINUE
    with pytest.raises(UserError, match="phase"):
        RungRule(settings)
    with pytest.raises(UserError, match="directions"):
        RungRule(RungSettings(levels=(1,), directions=(1,)))


def test_a_lone_trial_goes_on_when_no_more_will_come() -> None:
    rungs = Rungs(RungSettings(eta=2, levels=(1, 2, 4), variant="promote"))
    assert rungs.report("one", 1, (1.0, 1.0)) == Decision.PAUSE
    assert rungs.promotable() == []
    assert rungs.lone() == ["one"]
    assert rungs.report("two", 1, (2.0, 2.0)) == Decision.PAUSE
    assert (rungs.promotable(), rungs.lone()) == (["one"], [])
    assert rungs.report("one", 2, (1.0, 1.0)) == Decision.PAUSE
    assert (rungs.promotable(), rungs.lone()) == ([], ["one"])


def test_the_nearest_to_going_on_are_those_of_whom_the_smallest_share_is_better() -> None:
    rng = np.random.default_rng(8)
    for _ in range(100):
        rungs, entries = Rungs(RungSettings(eta=4, levels=(1, 2), variant="promote")), list[Entry]()
        for n in range(int(rng.integers(1, 12))):
            entries.append(Entry(f"t{n}", draw(rng), bool(rng.random() < 0.8)))
            rungs.report(f"t{n}", 1, entries[-1].values, feasible=entries[-1].feasible)
        high = [Entry(t, draw(rng), True) for t in rungs.promotable()[:2]]
        for entry in high:
            rungs.report(entry.trial_id, 2, entry.values)
        shares = {e.trial_id: place(entries, e) / len(entries) for e in entries}
        shares |= {e.trial_id: place(high, e) / len(high) for e in high}
        nearest = rungs.nearest(len(entries))
        assert rungs.nearest(2) == nearest[:2]
        assert sorted(nearest) == sorted(rungs.paused)
        assert [shares[t] for t in nearest] == sorted(shares[t] for t in rungs.paused)


def test_a_sweep_file_says_where_the_rungs_lie(tmp_path: Path) -> None:
    def rule(stopping: str) -> RungRule | None:
        (tmp_path / "s.yaml").write_text(
            "base: {training: {images: 64000, batch_size: 64}, evaluation.lengths: [0.1, 0.25, 0.5, 1.0]}\n"
            "space: {consistency.start: {choice: [0.2, 0.5]}}\n"
            f"search: {{stopping: {stopping}, constraints: {{memorization: 0.1, parameters: 1e9}}}}\n"
        )
        made = stopping_rule(load_sweep(tmp_path / "s.yaml"))
        assert made is None or isinstance(made, RungRule)
        return made

    def told(images: int, fidelity: float, memorization: float = 0.0) -> dict[str, float]:
        return {"images": images, "fraction": images / 64000, "fidelity": fidelity, "memorization": memorization}

    assert rule("{rule: none}") is None
    plain = rule("{}")
    assert plain is not None
    assert plain.rungs.settings.positions == (6400, 16000, 32000)
    late = rule("{grace: 0.2, eta: 3, variant: stop}")
    assert late is not None
    assert (late.rungs.settings.positions, late.rungs.settings.eta) == ((16000, 32000), 3)
    values = {"consistency.start": 0.5}
    assert plain.report("a", values, told(6400, 1.0, 0.5)) == Decision.PAUSE
    assert plain.report("b", values, told(6400, 9.0)) == Decision.CONTINUE, "the other exceeds a bound"
    phase = rule("{relative_to: phase}")
    assert phase is not None
    assert phase.report("a", values, told(32000, 1.0)) == Decision.CONTINUE, "its phase begins here"
    assert phase.reached("a") is None
    assert phase.report("a", values, told(32000 + 6400, 1.0)) == Decision.PAUSE
    assert phase.reached("a") == 0


@pytest.mark.parametrize("relative_to", ["start", "phase"])
@pytest.mark.parametrize(
    ("key", "choices"), [("training.batch_size", [128, 64, 96, 32]), ("training.images", [10000, 40000, 2500])]
)
def test_trials_of_other_lengths_are_compared_at_the_same_fraction(
    tmp_path: Path, key: str, choices: list[int], relative_to: str
) -> None:
    (tmp_path / "s.yaml").write_text(
        "base: {training: {images: 10000, batch_size: 128}, evaluation.lengths: [0.25, 0.5, 0.75, 1.0],\n"
        "       consistency.start: 0.25}\n"
        f"space: {{{key}: {{choice: {choices}}}}}\n"
        f"search: {{stopping: {{relative_to: {relative_to}}}}}\n"
    )
    sweep = load_sweep(tmp_path / "s.yaml")
    rule = stopping_rule(sweep)
    assert rule is not None
    late = relative_to == "phase"  # a quarter later
    for number, choice in enumerate(choices):
        lengths = evaluated_lengths(sweep.config_for({key: choice}))
        reached = []
        for images, fraction in sorted(lengths.items()):
            report = {"images": images, "fraction": fraction, "fidelity": float(number), "memorization": 0.0}
            rule.report(str(choice), {key: choice}, report)
            reached.append(rule.reached(str(choice)))
        assert reached == ([None, 0, 1, 2] if late else [0, 1, 2, 2])


def test_a_trial_that_ends_by_itself_is_not_paused_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "base: {training: {images: 64000, batch_size: 64, stop: 0.5}, evaluation.lengths: [0.25, 0.5, 1.0]}\n"
        "space: {training.stop: {choice: [0.6, 0.5]}}\n"
    )
    rule = stopping_rule(load_sweep(tmp_path / "s.yaml"))
    assert rule is not None
    for trial_id, stop, decision in (("a", 0.6, PAUSE), ("b", 0.5, CONTINUE), ("c", 0.6, PAUSE)):
        told = {"images": 32000, "fraction": 0.5, "fidelity": ord(trial_id), "memorization": 0.0}
        assert rule.report(trial_id, {"training.stop": stop}, told) == decision
        assert rule.reached(trial_id) == 1


@pytest.mark.parametrize("name", ["device_seconds", "memory_gib"])
def test_a_trial_beyond_any_bound_comes_last(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.yaml").write_text(
        "base: {training: {images: 64000, batch_size: 64}, evaluation.lengths: [0.25, 1.0]}\n"
        "space: {observed.sigma: {uniform: [0.1, 0.5]}}\n"
        f"search: {{stopping: {{variant: stop}}, constraints: {{{name}: 10}}}}\n"
    )
    rule = stopping_rule(load_sweep(tmp_path / "s.yaml"))
    assert rule is not None
    told = {"images": 16000, "fraction": 0.25, "memorization": 0.0}
    assert rule.report("within", {}, {**told, "fidelity": 5.0, name: 9.0}) == CONTINUE
    assert rule.report("unknown", {}, {**told, "fidelity": 4.0, name: None}) == CONTINUE
    assert rule.report("beyond", {}, {**told, "fidelity": 1.0, name: 1000.0}) == STOP


def test_a_state_of_more_brackets_is_refused() -> None:
    rule = RungRule(RungSettings(levels=(1, 2, 3), brackets=3))
    for number in range(9):
        rule.report(str(number), {}, result(1.0, 1.0))
    with pytest.raises(UserError, match="the saved state has 3 brackets, not 2; keep those"):
        RungRule(RungSettings(levels=(1, 2, 3), brackets=2)).restore(rule.state())


def evaluation(images: int, fidelity: float, memorization: float) -> dict[str, Any]:
    return {"images": images, "fraction": images / 8, "fidelity": fidelity, "memorization": memorization}


def test_places_among_shorter_entries_equal_a_brute_force_version() -> None:
    """Every report of random sequences, with ties, NaN, infeasible values and a restored state on the way."""
    for case in range(60):
        rng = random.Random(f"among/{case}")
        variant, ties = rng.choice(["stop", "promote"]), rng.choice(["crowding", "epsilon"])
        settings = RungSettings(eta=2, levels=(1, 2, 3), among="shorter", variant=variant, ties=ties)
        rungs, told = Rungs(settings), dict[tuple[int, str], tuple[list[float], bool]]()
        trials = [f"t{n}" for n in range(20)]
        reports = [(trial_id, position) for trial_id in trials for position in (1, 2, 3)]
        order = sorted(reports, key=lambda report: (rng.random() + report[1], report))  # roughly by length
        for trial_id, position in order:
            values = [float(rng.randrange(6)), rng.choice([0.0, 1.0, 2.0, math.nan, 3.5])]
            feasible = rng.random() < 0.9
            decision = rungs.report(trial_id, position, values, feasible=feasible)
            told[position, trial_id] = (values if not math.isnan(values[1]) else [math.nan] * 2, feasible)
            mine = [at for at in told if at[0] == position]
            rows = mine + [at for at in told if at[0] < position]
            place = pareto.places(
                np.array([told[at][0] for at in rows]), np.array([told[at][1] for at in rows]), ties=ties
            )
            own = place[: len(mine)]
            better = int((own < own[mine.index((position, trial_id))]).sum())
            keeps = len(mine) // 2
            if variant == "stop":
                assert (decision == Decision.CONTINUE) == (keeps < 1 or better < keeps)
            else:
                assert (decision == Decision.CONTINUE) == (better < keeps)
                kept = {at[1] for at, p in zip(mine, own, strict=True) if int((own < p).sum()) < keeps}
                ready = [t for t in rungs.promotable() if rungs.reached(t) == position - 1]
                assert set(ready) == kept & set(rungs.paused) & {t for t in trials if rungs.reached(t) == position - 1}
            if rng.random() < 0.1:
                rungs = Rungs.restore(settings, json.loads(json.dumps(rungs.state())))


def test_a_trial_that_less_training_beats_stands_behind() -> None:
    """`a` is best at the second rung by distance, but is no better than `c` was at the first; `b` is a trade of its own."""
    for among, first in (("shorter", "b"), ("rung", "a")):
        rungs = Rungs(RungSettings(eta=2, levels=(1, 2), variant="promote", among=among))  # type: ignore[arg-type]
        for trial_id, values in (("c", (5.0, 0.0)), ("a", (9.0, 0.0)), ("b", (20.0, 0.1))):
            rungs.report(trial_id, 1, values)
        rungs.report("a", 2, (6.0, 0.1))
        rungs.report("b", 2, (4.0, 0.4))
        rungs.report("d", 2, (5.5, 0.5))
        assert next(t for t in ("a", "b", "d") if t in rungs.promotable() or t not in rungs.paused) == first


def test_what_another_trains_right_now_is_not_promoted_yet() -> None:
    busy: set[str] = set()
    rule = RungRule(RungSettings(eta=2, levels=(1,), variant="promote"), busy=lambda values: values["name"] in busy)
    for trial_id, fidelity in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0)):
        rule.report(trial_id, {"name": trial_id}, evaluation(1, fidelity, 0.0))
    ready = rule.promotable()
    assert ready
    busy.add(ready[0])
    assert rule.promotable() == ready[1:]
    assert rule.promotable(final=True)[:1] == ready[:1]
