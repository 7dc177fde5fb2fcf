"""What may be trained next: nothing twice, nothing over a bound, the cheapest first and none for ever last."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ambient_sweep.sweep.asking import DrawAsker, Told
from ambient_sweep.sweep.candidates import PATIENCE, Candidate, Candidates, Nothing, mark
from ambient_sweep.sweep.sources import Here

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space import Sweep, load_sweep

TEXT = """
space:
  objective.kind: {choice: [ambient, ambient_consistency]}
  consistency.weight: {uniform: [0.5, 1.5], step: 0.5, when: {objective.kind: ambient_consistency}}
  seed: {int: [0, 3]}
search: {trials: 50}
"""


def sweep_of(folder: Path, **overrides: Any) -> Sweep:
    (folder / "s.yaml").write_text(TEXT)
    return load_sweep(folder / "s.yaml", {f"search.{key}": value for key, value in overrides.items()})


class Listing(Here):
    """Proposes what it is given, and remembers what it is told."""

    def __init__(self, values: Iterator[dict[str, Any]]) -> None:
        super().__init__(DrawAsker(values))
        self.told: list[tuple[str, Told]] = []
        self.add = self.end = lambda key, told: self.told.append((key, told))


def seeds(*order: int) -> Iterator[dict[str, Any]]:
    return ({"objective.kind": "ambient", "seed": seed} for seed in order)


def take(candidates: Candidates, count: int = 100, waiting_helps: bool = False) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        candidate = candidates.next(waiting_helps=waiting_helps)
        if isinstance(candidate, Nothing):
            break
        found.append(candidate.values)
    return found


def test_every_config_comes_once_even_from_a_source_that_repeats_itself(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    source = Listing(itertools.repeat({"objective.kind": "ambient", "seed": 1}))
    tried = {"objective.kind": "ambient_consistency", "consistency.weight": 0.5, "seed": 0}
    candidates = Candidates(sweep, source, [tried])
    given = candidates.given({"seed": 2, "objective.kind": "ambient"})
    assert given is not None
    assert candidates.given({"seed": 2, "objective.kind": "ambient"}) is None
    found = [given.values, *take(candidates)]
    assert len({mark(values) for values in [*found, tried]}) == len(found) + 1 == sweep.size() == 16
    assert not candidates.left
    assert candidates.next(waiting_helps=True) is Nothing.LEFT
    assert sum(told.ending == "fail" for _, told in source.told) == 20 * 13  # of the rest, drawn
    assert all(values == sweep.active(values) for values in found)


def test_a_point_opens_keys_that_are_drawn(tmp_path: Path) -> None:
    candidates = Candidates(sweep_of(tmp_path), Listing(seeds()), [])
    full = [candidates.given({"objective.kind": "ambient_consistency"}) for _ in range(4)]
    assert all(c is not None and set(c.values) == {"objective.kind", "consistency.weight", "seed"} for c in full)
    assert len({mark(c.values) for c in full if c}) == 4


def test_what_exceeds_a_bound_is_refused_with_the_reason(tmp_path: Path) -> None:
    sweep, source = sweep_of(tmp_path, **{"constraints.parameters": 1500}), Listing(seeds(3, 1, 2, 0))
    refused: list[tuple[dict[str, Any], dict[str, float], str]] = []

    def refuse(candidate: Candidate, over: dict[str, float], why: str) -> None:
        refused.append((candidate.values, over, why))

    def parameters(values: Mapping[str, Any]) -> int:
        return 1000 * int(values["seed"])

    candidates = Candidates(sweep, source, [], parameters=parameters, refused=refuse)
    assert [values["seed"] for values in take(candidates, 2)] == [1, 0]
    assert [values["seed"] for values, _, _ in refused] == [3, 2]
    assert [over["parameters"] for _, over, _ in refused] == pytest.approx([1, 1 / 3])
    assert refused[0][2] == "parameters 3,000 exceed search.constraints.parameters=1500"
    assert [told.constraints for _, told in source.told] == [{"parameters": 1.0}, {"parameters": pytest.approx(1 / 3)}]
    many = Listing({"objective.kind": "ambient", "seed": seed} for seed in itertools.count(10))
    wide = Candidates(sweep, many, [], parameters=lambda values: 9999)
    wide._size = float("inf")
    assert take(wide) == []
    assert not wide.left
    assert wide.gave_up == (
        "search: 200 configs in a row were refused, the last one: parameters 9,999 exceed "
        "search.constraints.parameters=1500; narrow the space, or raise the bound"
    )


def test_a_point_over_a_bound_is_refused_too(tmp_path: Path) -> None:
    sweep, source = sweep_of(tmp_path, **{"constraints.parameters": 1500}), Listing(seeds())
    whys: list[str] = []
    candidates = Candidates(
        sweep,
        source,
        [],
        parameters=lambda values: 1000 * int(values["seed"]),
        refused=lambda candidate, over, why: whys.append(why),
    )
    assert candidates.given({"objective.kind": "ambient", "seed": 3}) is None
    assert whys == ["parameters 3,000 exceed search.constraints.parameters=1500"]
    assert [told.ending for _, told in source.told] == ["running", "pruned"]
    open_point = candidates.given({"objective.kind": "ambient"})  # other draws of what it leaves open fit
    assert open_point is not None
    assert open_point.values["seed"] < 2


def test_a_config_that_contradicts_itself_is_refused_and_the_search_goes_on(tmp_path: Path) -> None:
    sweep, source = sweep_of(tmp_path), Listing(seeds(3, 1, 2, 0))
    whys: list[tuple[int, str]] = []

    def cost(values: Mapping[str, Any]) -> int:
        if values["seed"] > 1:
            raise UserError("s: no such config")
        return 1

    def refuse(candidate: Candidate, over: dict[str, float], why: str) -> None:
        assert not over
        whys.append((candidate.values["seed"], why))

    candidates = Candidates(sweep, source, [], cost=cost, refused=refuse)
    assert [values["seed"] for values in take(candidates)] == [1, 0]
    assert not candidates.gave_up
    assert whys == [(3, "no such config"), (2, "no such config")]
    assert [told.ending for _, told in source.told] == ["fail", "fail"]
    none = Candidates(sweep, Listing(seeds(3, 2)), [], cost=cost)
    none._size = 2
    assert take(none) == []
    assert none.gave_up.startswith("search: all configs of the space were refused, the last one: no such config")


def test_a_grid_goes_on_behind_any_number_that_is_refused(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, **{"sampler": "grid", "constraints.parameters": 1500})
    grid = [{"model.width": width, "seed": seed} for width in (512, 16) for seed in range(402)]
    candidates = Candidates(sweep, Listing(iter(grid)), [], parameters=lambda values: int(values["model.width"]) ** 2)
    candidates._size = len(grid)
    asked = [candidates.next(waiting_helps=False) for _ in range(406)]
    assert asked[:2] == [Nothing.YET] * 2  # Tune's loop turns in between
    assert [c.values for c in asked[2:404] if isinstance(c, Candidate)] == grid[402:]
    assert asked[404:] == [Nothing.LEFT] * 2


def test_the_cheapest_that_is_not_busy_comes_first_and_none_is_lost(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, lookahead=3)
    busy: set[int] = set()
    candidates = Candidates(
        sweep,
        Listing(seeds(3, 1, 2, 0)),
        [],
        cost=lambda values: 100 * int(values["seed"]),
        busy=lambda values: values["seed"] in busy,
    )
    busy |= {1}
    assert [v["seed"] for v in take(candidates, 2)] == [2, 0]
    busy |= {3}
    assert candidates.next(waiting_helps=True) is Nothing.YET
    assert [v["seed"] for v in take(candidates, 1, waiting_helps=False)] == [3]  # nothing runs: no use in waiting
    busy.clear()
    assert [v["seed"] for v in take(candidates, 1)] == [1]


def test_a_dear_one_is_not_passed_over_for_ever(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, lookahead=2)
    values = ({"objective.kind": "ambient", "seed": number} for number in itertools.count())
    candidates = Candidates(sweep, Listing(values), [], cost=lambda v: 1000 if v["seed"] == 0 else int(v["seed"]))
    candidates._size = float("inf")
    order = [v["seed"] for v in take(candidates, 30)]
    assert order.index(0) == PATIENCE * 2


def test_what_trains_alike_comes_right_after_it_once_for_each_proposal(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "base: {ema.kind: power}\n"
        "space: {seed: {int: [0, 2]}, ema.length: {choice: [0.05, 0.1, 0.2]}, sampling.steps: {choice: [4, 8]}}\n"
        "search: {lookahead: 1}\n"
    )
    values = ({"seed": seed, "ema.length": 0.1, "sampling.steps": 8} for seed in (0, 1, 2))
    source, trained = Listing(values), dict[int, int]()
    busy = {0}
    candidates = Candidates(
        load_sweep(tmp_path / "s.yaml"),
        source,
        [],
        cost=lambda v: 100 - trained.get(v["seed"], 0),
        busy=lambda v: v["seed"] in busy,
    )
    assert [v["seed"] for v in take(candidates, 1, waiting_helps=False)] == [0]
    assert [v["seed"] for v in take(candidates, 1)] == [1]  # nothing is trained of the first yet
    trained |= {0: 50}
    assert [v["seed"] for v in take(candidates, 1)] == [2]  # and now it is still on its way
    busy.clear()
    (sibling,) = take(candidates, 1)
    first = {"seed": 0, "ema.length": 0.1, "sampling.steps": 8}
    assert sibling["seed"] == 0
    assert sum(sibling[key] != first[key] for key in first) == 1
    assert source.told[-1][1] == Told(sibling, "running")
    trained |= {1: 100}
    assert [v["seed"] for v in take(candidates, 1)] == [1]
