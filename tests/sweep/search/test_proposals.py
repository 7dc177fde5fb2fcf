"""What may be trained next: nothing twice, nothing over a bound, the cheapest first and none last for ever."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from searches import record_of, sweep_of

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.search.proposals import PATIENCE, REFUSALS, REPEATS, Proposals, Unshared, mark
from ambient_sweep.sweep.search.study import StudyRecord
from ambient_sweep.sweep.space.definition import Sweep

TEXT = """
space:
  objective.kind: {choice: [ambient, ambient_consistency]}
  consistency.weight: {uniform: [0.5, 1.5], step: 0.5, when: {objective.kind: ambient_consistency}}
  seed: {int: [0, 3]}
search: {trials: 50}
"""
WIDE = "space: {seed: {int: [0, 100000]}}\nsearch: {trials: 50}"


class Listing(optuna.samplers.RandomSampler):
    """Draws what it is given, in turn."""

    def __init__(self, values: Iterator[dict[str, Any]]) -> None:
        super().__init__(seed=0)
        self._values, self._always = values, False

    def before_trial(self, study: Any, trial: Any) -> None:
        if self._always or "fixed_params" not in trial.system_attrs:
            self._now = next(self._values)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._now[param_name]


def proposals(
    sweep: Sweep,
    values: Iterator[dict[str, Any]],
    *,
    cost: Callable[[Mapping[str, Any]], int] = lambda values: 1,
    parameters: Callable[[Mapping[str, Any]], int] = lambda values: 0,
    busy: Callable[[Mapping[str, Any]], bool] | None = None,
) -> tuple[Proposals, StudyRecord]:
    record = record_of(sweep)
    record.study.sampler = Listing(values)
    planner: Any = SimpleNamespace(cost=cost, busy=busy) if busy else Unshared(cost)
    return Proposals(sweep, record, planner, parameters), record


def seeds(*order: int) -> Iterator[dict[str, Any]]:
    return ({"objective.kind": "ambient", "seed": seed} for seed in order)


def take(source: Proposals, count: int = 100, waiting_helps: bool = False) -> list[dict[str, Any]]:
    trials = (source.next(waiting_helps=waiting_helps) for _ in range(count))
    return [trial.values for trial in itertools.takewhile(lambda trial: trial is not None, trials) if trial]


def refused(record: StudyRecord) -> list[tuple[int, str, str]]:
    return [
        (t.params["seed"], t.state.name, t.user_attrs["why"])
        for t in record.study.get_trials()
        if "why" in t.user_attrs
    ]


def test_every_config_comes_once_even_from_a_sampler_that_repeats_itself(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, TEXT)
    source, record = proposals(sweep, itertools.repeat({"objective.kind": "ambient", "seed": 1}))
    tried = {"objective.kind": "ambient_consistency", "consistency.weight": 0.5, "seed": 0}
    source.remember(tried)
    for _ in range(2):
        source.give({"seed": 2, "objective.kind": "ambient"}, {})
    found = take(source)
    assert found[0] == {"objective.kind": "ambient", "seed": 2}
    assert len({mark(values) for values in [*found, tried]}) == len(found) + 1 == sweep.size() == 16
    assert not source.left
    assert source.next(waiting_helps=True) is None
    repeated = [why for *_, why in refused(record)]
    assert set(repeated) == {"tried before"}
    assert len(repeated) == 1 + REPEATS * 13
    assert all(values == sweep.active(values) for values in found)


def test_a_point_opens_keys_that_are_drawn_until_they_fit(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, TEXT, search__constraints__parameters=1500)
    draws = ({"consistency.weight": 0.5, "seed": seed} for seed in (0, 0, 3, 1))
    source, record = proposals(sweep, draws, parameters=lambda values: 1000 * int(values["seed"]))
    record.study.sampler._always = True  # type: ignore[union-attr]
    for _ in range(2):
        source.give({"objective.kind": "ambient_consistency"}, {"point": 0})
    found = take(source, 2)
    assert found == [
        {"objective.kind": "ambient_consistency", "consistency.weight": 0.5, "seed": seed} for seed in (0, 1)
    ]
    assert [(seed, state) for seed, state, _ in refused(record)] == [(0, "FAIL"), (3, "PRUNED")]


def test_marks_tell_values_apart_and_nothing_else() -> None:
    assert mark({"a": 1, "b": 0.5}) == mark({"b": 0.5, "a": 1})
    assert len({mark({"a": v}) for v in (1, True, "1", None, 2)}) == 5
    assert mark({"a": 1}) != mark({"a": 1, "b": None})


def test_what_exceeds_a_bound_is_refused_with_the_reason(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, TEXT, search__constraints__parameters=1500)
    parameters: Any = lambda values: 1000 * int(values["seed"])  # noqa: E731
    source, record = proposals(sweep, seeds(3, 1, 2, 0), parameters=parameters)
    source.give({"objective.kind": "ambient_consistency", "consistency.weight": 0.5, "seed": 2}, {})
    source.give({"objective.kind": "ambient_consistency", "consistency.weight": 0.5, "seed": 2}, {})
    assert [values["seed"] for values in take(source, 2)] == [1, 0]
    why = "parameters {},000 exceed search.constraints.parameters=1500"
    pruned = [(seed, "PRUNED", why.format(seed)) for seed in (2, 2, 3)]
    assert sorted(refused(record)) == [(2, "FAIL", "tried before"), *pruned]
    over = [t.constraints["parameters"] for t in record.study.get_trials(states=(TrialState.PRUNED,))]
    assert over == pytest.approx([1 / 3, 1, 1 / 3])


def test_a_search_gives_up_where_all_is_refused(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, WIDE, search__constraints__parameters=1500)
    source, record = proposals(sweep, ({"seed": n} for n in itertools.count(10)), parameters=lambda values: 9999)
    assert take(source) == []
    assert not source.left
    assert source.gave_up == (
        "search: 200 configs in a row were refused, the last one: parameters 9,999 exceed "
        "search.constraints.parameters=1500; narrow the space or raise the bound"
    )
    assert len(refused(record)) == REFUSALS

    def cost(values: Mapping[str, Any]) -> int:
        raise UserError("s: no such config")

    small = sweep_of(tmp_path, TEXT)
    source, record = proposals(small, itertools.cycle(seeds(0, 1, 2, 3)), cost=cost)
    assert take(source) == []
    assert source.gave_up.startswith("search: all configs of the space were refused, the last one: no such config;")
    assert [state for _, state, why in refused(record) if why == "no such config"] == ["FAIL"] * 16


def test_a_grid_goes_on_behind_any_number_that_is_refused(tmp_path: Path) -> None:
    text = "space: {model.width: {choice: [512, 16]}, seed: {int: [0, 401]}}\nbase: {model.kind: mlp}"
    sweep = sweep_of(tmp_path, text, search__sampler="grid", search__constraints__parameters=1500)
    source, _ = proposals(sweep, iter(()), parameters=lambda values: int(values["model.width"]) ** 2)
    assert take(source, 1000) == [{"model.width": 16, "seed": seed} for seed in range(402)]
    assert not source.gave_up


def test_the_cheapest_that_is_not_busy_comes_first_and_none_is_lost(tmp_path: Path) -> None:
    busy: set[int] = {1}
    source, _ = proposals(
        sweep_of(tmp_path, TEXT.replace("trials: 50", "trials: 50, sampler: random")),
        seeds(3, 1, 2, 0, *[0] * 500),
        cost=lambda values: 100 * int(values["seed"]) + (1000 if "consistency.weight" in values else 0),
        busy=lambda values: values["seed"] in busy,
    )
    assert [v["seed"] for v in take(source, 1)] == [3], "of the first two, one is busy"
    assert [v["seed"] for v in take(source, 2)] == [2, 0]
    busy |= {0, 1, 2, 3}
    assert source.next(waiting_helps=True) is None
    assert source.left
    assert [v["seed"] for v in take(source, 1, waiting_helps=False)] == [1], "nothing runs: waiting is of no use"
    busy.clear()
    assert len(take(source)) == 12


def test_a_costly_one_is_not_passed_over_for_ever(tmp_path: Path) -> None:
    source, _ = proposals(
        sweep_of(tmp_path, WIDE),
        ({"seed": number} for number in itertools.count()),
        cost=lambda values: 1000 if values["seed"] == 0 else int(values["seed"]),
        busy=lambda values: False,
    )
    assert [v["seed"] for v in take(source, 30)].index(0) == PATIENCE


def test_what_trains_alike_comes_right_after_it_once_for_each_proposal(tmp_path: Path) -> None:
    text = """
    base: {ema.kind: power}
    space: {seed: {int: [0, 2]}, ema.length: {choice: [0.05, 0.1, 0.2]}, sampling.steps: {choice: [4, 8]}}
    search: {trials: 30}
    """
    trained, busy = dict[int, int](), {0}
    source, record = proposals(
        sweep_of(tmp_path, text),
        ({"seed": seed, "ema.length": 0.1, "sampling.steps": 8} for seed in itertools.cycle((0, 1, 2))),
        cost=lambda values: 100 - trained.get(values["seed"], 0),
        busy=lambda values: values["seed"] in busy,
    )
    for seed in (0, 1, 2):
        source.give({"seed": seed, "ema.length": 0.1, "sampling.steps": 8}, {})
    assert [v["seed"] for v in take(source, 3)] == [0, 1, 2], "nothing is trained of them yet"
    trained |= {0: 50}
    assert take(source, 1)[0] not in ({"seed": 0}, None), "what is on its way has no sibling yet"
    busy.clear()
    (sibling,) = take(source, 1)
    first = {"seed": 0, "ema.length": 0.1, "sampling.steps": 8}
    assert sibling["seed"] == 0
    assert sum(sibling[key] != first[key] for key in first) == 1
    trained |= {1: 100}
    assert [v["seed"] for v in take(source, 1)] == [1]
    assert all(t.state == TrialState.RUNNING for t in record.study.get_trials() if "why" not in t.user_attrs)
