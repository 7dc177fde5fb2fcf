"""An asker in a process of its own: the same proposals, never a wait, and its end noticed."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.sweep.asking import Asked, Told, make_asker
from ambient_sweep.sweep.candidates import Nothing
from ambient_sweep.sweep.definition import Search
from ambient_sweep.sweep.distributions import Distribution
from ambient_sweep.sweep.sources import Elsewhere, Here, make_source

SPACE = {
    "kind": Distribution("choice", ("plain", "late", True)),
    "sigma": Distribution("uniform", (0.05, 0.5), 0.05),
    "weight": Distribution("loguniform", (0.1, 3.0), when=(("kind", ("late", True)),)),
}
STUCK = (sys.executable, "-c", "import sys, time; time.sleep(1000)")
DEAD = (sys.executable, "-c", "raise SystemExit(3)")


@pytest.fixture
def opened() -> Iterator[list[Elsewhere]]:
    sources: list[Elsewhere] = []
    yield sources
    for source in sources:
        source.close()
        assert source._process.returncode is not None


def wait_for(source: Elsewhere, key: str) -> Asked:
    deadline = time.monotonic() + 120
    while (asked := source.propose(key)) is Nothing.YET:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert isinstance(asked, Asked)
    return asked


def test_it_proposes_what_the_asker_proposes(opened: list[Elsewhere]) -> None:
    search = Search(sampler="optuna:NSGAIISampler", sampler_args={"population_size": 4}, seed=3)
    opened.append(Elsewhere(SPACE, search, seconds=100, ahead=1))
    asker = make_asker(SPACE, search)
    waiting = asker.ask("c0")
    for number in range(12):
        theirs = wait_for(opened[0], f"c{number}")
        assert waiting is not None
        assert (theirs.values, theirs.system, theirs.note) == (waiting.values, waiting.system, None)
        # The next one was asked for when this one was taken, before its end was told.
        following = asker.ask(f"c{number + 1}")
        told = Told(waiting.values, "complete", 1.0, (waiting.values["sigma"], 1.0), {"m": -1.0}, waiting.system)
        for each in (asker, opened[0]):
            each.end(f"c{number}", told)
            each.add("", Told(waiting.values, "observation", 0.5, (2.0, 0.5), {}, waiting.system))
        waiting = following


def test_an_overdue_proposal_is_replaced_by_a_seeded_draw(opened: list[Elsewhere]) -> None:
    now, given = [0.0], []
    for _ in range(2):
        opened.append(Elsewhere(SPACE, Search(sampler="gp"), 4, seconds=10, clock=lambda: now[0], command=STUCK))
        source = opened[-1]
        assert source.propose("a") is Nothing.YET
        now[0] += 9
        assert source.propose("a") is Nothing.YET
        now[0] += 1
        first, second = source.propose("a"), source.propose("b")
        assert isinstance(first, Asked)
        assert isinstance(second, Asked)
        assert first.note == second.note == "random: gp took longer than 10 s"
        assert first.values != second.values
        given.append((first.values, second.values))
        for _ in range(3000):  # more than a pipe holds: telling never waits for a process that does not read
            source.add("", Told(first.values, "observation", 0.5, (1.0, 1.0)))
        source.end("a", Told(first.values, "complete", 1.0, (1.0, 1.0)))
    assert given[0] == given[1]


def test_a_process_that_died_is_told(opened: list[Elsewhere]) -> None:
    opened.append(Elsewhere(SPACE, Search(sampler="gp"), seconds=100, command=DEAD))
    with pytest.raises(AmbientSweepError, match=r"search\.sampler=gp: its process died"):
        wait_for(opened[0], "a")


def test_what_a_sampler_raises_in_its_process_is_one_line(opened: list[Elsewhere]) -> None:
    opened.append(Elsewhere(SPACE, Search(sampler="optuna:CmaEsSampler"), seconds=100))
    with pytest.raises(AmbientSweepError) as caught:
        wait_for(opened[0], "a")
    assert str(caught.value).startswith(
        "search.sampler=optuna:CmaEsSampler: CmaEsSampler: If the study is being used for"
    )
    assert "\n" not in str(caught.value)


def test_which_samplers_get_a_process_of_their_own(opened: list[Elsewhere], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("ambient_sweep.sweep.sources.Elsewhere", lambda *args, **more: made.append(more))
    for changes, seconds in (
        ({"sampler": "tpe"}, None), ({"sampler": "tpe", "ask_seconds": 3}, 3.0), ({"sampler": "gp"}, 10.0),
        ({"sampler": "gp", "ask_seconds": 0}, None), ({"sampler": "optuna:TPESampler"}, 10.0),
    ):  # fmt: skip
        made.clear()
        source = make_source(SPACE, Search(**changes), 0, 2)
        assert isinstance(source, Here) == (seconds is None)
        assert made == ([] if seconds is None else [{"seconds": seconds, "ahead": 2}])
