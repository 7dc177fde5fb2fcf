"""MO-ASHA's rungs against a version by the definition, and the properties that such a rule must have."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from searches import sweep_of

from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.sweep.stopping.rungs import Decision, Entry, Rungs, place

PAUSE, CONTINUE = Decision.PAUSE, Decision.CONTINUE
NAN, INF = math.nan, math.inf


# -- by the definition ------------------------------------------------------------------------------------------------


def group(entry: Entry) -> int:
    return 2 if not all(map(math.isfinite, entry.values)) else 0 if entry.feasible else 1


def dominates(a: Entry, b: Entry) -> bool:
    return a.values != b.values and all(x <= y for x, y in zip(a.values, b.values, strict=True))


def front_of(entries: list[Entry], entry: Entry) -> tuple[int, list[Entry]]:
    left, rank = [e for e in entries if group(e) == group(entry)], 0
    while True:
        front = [e for e in left if not any(dominates(o, e) for o in left)]
        if entry in front:
            return rank, front
        left, rank = [e for e in left if e not in front], rank + 1


def crowding(front: list[Entry], entry: Entry) -> float:
    total = 0.0
    if len({e.values for e in front}) == 1:
        return INF
    for m, own in enumerate(entry.values):
        levels = {e.values[m] for e in front}
        if len(levels) > 1:
            below, above = [v for v in levels if v < own], [v for v in levels if v > own]
            total += INF if not below or not above else (min(above) - max(below)) / (max(levels) - min(levels))
    return total


def keys(entries: list[Entry]) -> list[tuple[float, ...]]:
    """By which entries are ordered."""
    found = list[tuple[float, ...]]()
    for entry in entries:
        rank, front = front_of(entries, entry) if group(entry) < 2 else (0, [])
        found.append((group(entry), rank, -crowding(front, entry) if front else 0))
    return found


class ByDefinition:
    """Pauses and promotes by sorting everything anew each time."""

    def __init__(self, eta: int, levels: tuple[float, ...]) -> None:
        self.eta, self.levels = eta, levels
        self.entries: list[dict[str, Entry]] = [{} for _ in levels]
        self.reached: dict[str, int] = {}
        self.paused: dict[str, int] = {}

    def better(self, rung: int) -> dict[str, int]:
        own = self.entries[rung]
        shorter = [entry for entries in self.entries[:rung] for entry in entries.values()]
        order = keys([*own.values(), *shorter])[: len(own)]
        return {trial: sum(other < mine for other in order) for trial, mine in zip(own, order, strict=True)}

    def report(self, trial_id: str, position: float, entry: Entry) -> Decision:
        self.paused.pop(trial_id, None)
        passed = [n for n, level in enumerate(self.levels) if level <= position]
        if not passed or passed[-1] <= self.reached.get(trial_id, -1):
            return CONTINUE
        rung = self.reached[trial_id] = passed[-1]
        self.entries[rung][trial_id] = entry
        if self.better(rung)[trial_id] < len(self.entries[rung]) // self.eta:
            return CONTINUE
        self.paused[trial_id] = rung
        return PAUSE

    def promotable(self, at_least: int = 0) -> list[str]:
        order, better = [], [self.better(rung) for rung in range(len(self.levels))]
        for number, (trial_id, rung) in enumerate(self.paused.items()):
            where = better[rung][trial_id]
            if where < max(at_least, len(self.entries[rung]) // self.eta):
                order.append((-rung, where, number, trial_id))
        return [trial_id for *_, trial_id in sorted(order)]

    def nearest(self, count: int) -> list[str]:
        share = {t: self.better(rung)[t] / len(self.entries[rung]) for t, rung in self.paused.items()}
        return sorted(self.paused, key=lambda t: (share[t], -self.paused[t]))[:count]


@dataclass(frozen=True)
class Reported:
    trial_id: str
    position: float
    entry: Entry


def draw(rng: np.random.Generator) -> Entry:
    values = rng.integers(0, 6, 2).astype(float) if rng.random() < 0.7 else rng.normal(size=2)
    if rng.random() < 0.06:
        values[rng.integers(2)] = rng.choice([NAN, INF, -INF])
    return Entry(tuple(values.tolist()), bool(rng.random() < 0.85))


def sequence(rng: np.random.Generator, trials: int = 10) -> list[Reported]:
    """Reports of several trials, interleaved; positions jump over rungs and fall between them."""
    position = dict.fromkeys(range(trials), 0)
    reports = []
    for _ in range(3 * trials):
        trial = int(rng.integers(trials))
        position[trial] += int(rng.integers(1, 7))
        reports.append(Reported(f"t{trial}", position[trial], draw(rng)))
    return reports


def feed(rungs: Rungs, reports: list[Reported]) -> list[Decision]:
    return [rungs.report(r.trial_id, r.position, r.entry) for r in reports]


def test_thousands_of_sequences_are_decided_as_by_the_definition() -> None:
    rng = np.random.default_rng(40)
    decided = []
    for _ in range(1200):
        eta = int(rng.integers(2, 5))
        levels = tuple(sorted(rng.choice(np.arange(1, 16), int(rng.integers(1, 4)), replace=False).tolist()))
        rungs, slow = Rungs(levels, eta), ByDefinition(eta, levels)
        for number, r in enumerate(sequence(rng, trials=5)):
            decision = rungs.report(r.trial_id, r.position, r.entry)
            assert decision == slow.report(r.trial_id, r.position, r.entry)
            decided.append(decision)
            if number % 3 == 0:
                assert rungs.paused == list(slow.paused)
                assert rungs.promotable() == slow.promotable()
                assert rungs.promotable(at_least=1) == slow.promotable(at_least=1)
                assert rungs.nearest(3) == slow.nearest(3)
                for trial_id in rungs.promotable()[:1]:
                    rungs.leave(trial_id)
                    slow.paused.pop(trial_id)
    assert min(decided.count(each) for each in (CONTINUE, PAUSE)) > 1000


def test_places_are_as_by_the_definition() -> None:
    rng = np.random.default_rng(41)
    for _ in range(300):
        entries = [draw(rng) for _ in range(int(rng.integers(0, 20)))]
        order = keys(entries)
        found = place(entries).tolist()
        assert found == [sorted(set(order)).index(each) for each in order]
    values = [(0, 2), (2, 0), (1, 1), (1, 1), (3, 3), (0, 0), (9, 9), (NAN, 0), (0, INF)]
    feasible = [True, True, True, True, True, False, False, True, False]
    entries = [Entry(v, f) for v, f in zip(values, feasible, strict=True)]
    assert place(entries).tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 5]


# -- properties -------------------------------------------------------------------------------------------------------


def changed(reports: list[Reported], change: Callable[[float, float], tuple[float, float]]) -> list[Reported]:
    return [replace(r, entry=replace(r.entry, values=change(*r.entry.values))) for r in reports]


def test_decisions_depend_on_neither_scale_nor_names() -> None:
    rng = np.random.default_rng(43)
    for _ in range(60):
        reports = sequence(rng)
        expected = feed(Rungs((2, 6), 2), reports)
        units = (2.0 ** rng.integers(-6, 7, 2)).tolist()
        scaled = changed(reports, lambda x, y: (x * units[0], y * units[1]))  # noqa: B023
        assert feed(Rungs((2, 6), 2), scaled) == expected
        renamed = [replace(r, trial_id=f"other-{99 - int(r.trial_id[1:])}") for r in reports]
        assert feed(Rungs((2, 6), 2), renamed) == expected
        swapped = changed(reports, lambda x, y: (y, x))
        assert feed(Rungs((2, 6), 2), swapped) == expected


def test_a_decision_does_not_depend_on_the_order_of_those_before() -> None:
    rng = np.random.default_rng(44)
    for _ in range(120):
        entries = [(f"t{n}", draw(rng)) for n in range(int(rng.integers(1, 12)))]  # ties and duplicates abound
        last, seen = draw(rng), set()
        for _ in range(4):
            rungs = Rungs((1,), 2)
            for n in rng.permutation(len(entries)):
                rungs.report(entries[n][0], 1, entries[n][1])
            decision = rungs.report("it", 1, last)
            seen.add((decision, frozenset(t for t, _ in entries if rungs._goes_on(t, 0))))
        assert len(seen) == 1


def test_equal_trials_go_together() -> None:
    rungs = Rungs((1,), 2)
    for n in range(6):
        rungs.report(f"t{n}", 1, Entry((1.0, 1.0)))
    assert rungs.report("equal", 1, Entry((1.0, 1.0))) == CONTINUE, "none is better, so none is worse"
    assert rungs.promotable() == ["t0"], "which the first was, with none to compare it with"
    assert rungs.report("worse", 1, Entry((1.0, 2.0))) == PAUSE
    assert rungs.report("nan", 1, Entry((NAN, 0.0))) == PAUSE
    assert rungs.report("infeasible", 1, Entry((0.0, 0.0), feasible=False)) == PAUSE
    assert rungs.report("better", 1, Entry((0.5, 1.0))) == CONTINUE


def test_promoting_loses_no_trial() -> None:
    """Trials run until nothing may go on: each is finished, or waits; and of every rung one of eta went on."""
    rng = np.random.default_rng(46)
    for _ in range(60):
        levels, full = (3, 9), 27
        rungs, quality = Rungs(levels, 3), {f"t{n}": draw(rng) for n in range(int(rng.integers(1, 40)))}
        at, finished, fresh = dict.fromkeys(quality, 0), set(), list(quality)
        while (ready := rungs.promotable()) or fresh:
            trial = ready[0] if ready else fresh.pop(0)
            for position in (*levels, full):
                if position <= at[trial]:
                    continue
                at[trial] = position
                if rungs.report(trial, position, quality[trial], last=position == full) == PAUSE:
                    break
            else:
                rungs.leave(trial)
                finished.add(trial)
        assert finished | set(rungs.paused) == set(quality)
        assert not finished & set(rungs.paused)
        reached = [sum(p >= level for p in at.values()) for level in (*levels, full)]
        assert all(above >= below // 3 for below, above in pairwise(reached))


def test_recalled_after_a_restart_all_stand_as_they_stood() -> None:
    """Reports come back in any order; trials that are not over wait as before, but for those that were promoted."""
    rng = np.random.default_rng(45)
    for _ in range(150):
        whole, reports = Rungs((2, 6, 11), 2), list[tuple[str, float, Entry]]()
        position = dict.fromkeys((f"t{n}" for n in range(8)), 0)
        for _ in range(20):
            ready = [t for t in position if t not in whole and position[t] < 16] + whole.promotable()
            if not ready:
                break
            trial = str(rng.choice(ready))
            position[trial] = min(level for level in (2, 6, 11, 16) if level > position[trial])
            reports.append((trial, position[trial], draw(rng)))
            whole.report(*reports[-1], last=position[trial] >= 16)
        over = {t for t, at in position.items() if at >= 16}
        again = Rungs((2, 6, 11), 2)
        again.recall([reports[n] for n in rng.permutation(len(reports))], set(position) - over)
        assert {t: again.reached(t) for t in position} == {t: whole.reached(t) for t in position}
        assert [again._places_at(n) for n in range(3)] == [whole._places_at(n) for n in range(3)]
        promoted = {t for t in whole.paused if t in whole.promotable()}
        assert set(whole.paused) - promoted <= set(again.paused)
        for trial in set(again.paused) - set(whole.paused):
            assert not again._goes_on(trial, again._reached[trial]), "it had been promoted, and others passed it since"
        for trial in position.keys() - over:
            probe = draw(rng)
            assert again.report(trial, 12, probe) == whole.report(trial, 12, probe)


# -- where rungs lie --------------------------------------------------------------------------------------------------


def test_reports_between_rungs_and_over_several() -> None:
    rungs = Rungs((10, 20, 40), 2)
    for n in range(8):
        assert rungs.report(f"good{n}", 5, Entry((9.0, 9.0))) == CONTINUE, "before the first rung"
        rungs.report(f"good{n}", 45, Entry((0.0, 0.0)))
    assert rungs.reached("good0") == 2
    assert rungs.reached("a") is None
    assert rungs.report("a", 12, Entry((5.0, 5.0))) == PAUSE, (
        "none to compare it with: the others jumped over this rung"
    )
    assert rungs.report("a", 15, Entry((9.0, 9.0))) == CONTINUE, "between rungs"
    assert rungs.report("a", 19, Entry((NAN, NAN))) == CONTINUE
    assert rungs.report("b", 11, Entry((4.0, 4.0))) == CONTINUE
    assert rungs.report("a", 41, Entry((5.0, 5.0))) == PAUSE, (
        "at the highest it is compared with those that jumped there"
    )
    assert rungs.report("c", 60, Entry((5.0, 5.0)), last=True) == CONTINUE, "a training that is over does not pause"
    assert rungs.reached("c") == 2
    again = Rungs((10, 20), 2)
    again.recall([("a", 10, Entry((5.0, 5.0))), ("a", 15, Entry((5.0, 5.0))), ("b", 10, Entry((4.0, 4.0)))], {"a", "b"})
    assert again.paused == [], "b is the best, and a was on its way"


def test_a_trial_that_less_training_beats_stands_behind() -> None:
    """`a` is best at the second rung by distance, but is no better than `c` was at the first; `b` is a trade of its own."""
    rungs = Rungs((1, 2), 2)
    for trial_id, values in (("c", (5.0, 0.0)), ("a", (9.0, 0.0)), ("b", (20.0, 0.1))):
        rungs.report(trial_id, 1, Entry(values))
    rungs.report("a", 2, Entry((6.0, 0.1)))
    rungs.report("b", 2, Entry((4.0, 0.4)))
    rungs.report("d", 2, Entry((5.5, 0.5)))
    assert next(t for t in ("a", "b", "d") if t in rungs.promotable() or t not in rungs) == "b"


@pytest.mark.parametrize(
    ("key", "choices"), [("training.batch_size", [128, 64, 96, 32]), ("training.images", [10000, 40000, 2500])]
)
def test_trials_of_other_lengths_are_compared_at_the_same_fraction(
    tmp_path: Path, key: str, choices: list[int]
) -> None:
    text = f"""
    base:
      training: {{images: 10000, batch_size: 128}}
      evaluation.lengths: [0.25, 0.5, 0.75, 1.0]
    space: {{{key}: {{choice: {choices}}}}}
    """
    sweep = sweep_of(tmp_path, text)
    rungs, reports = Rungs(sweep.rung_levels, sweep.search.stopping.eta), []
    for number, choice in enumerate(choices):
        reached = []
        for _, fraction in sorted(evaluated_lengths(sweep.config_for({key: choice})).items()):
            reports.append((str(choice), fraction, Entry((float(number), 0.0))))
            rungs.report(*reports[-1])
            reached.append(rungs.reached(str(choice)))
        assert reached == [0, 1, 2, 2]
    again = Rungs(sweep.rung_levels, sweep.search.stopping.eta)
    again.recall([r for r in reports if r[1] < 0.9], {str(choice) for choice in choices})
    assert set(again.paused) == {str(choice) for choice in choices[len(choices) // 2 :]}, "they stand at a rung"
