"""A search that goes on in a wider space, and one that begins with the frontier of another."""

from pathlib import Path

import pytest
from searches import at, record_of, sweep_of

from ambient_sweep.errors import UserError
from ambient_sweep.sweep.space.file import with_points

FILE = """
space: {observed.sigma: {uniform: [0.2, 0.3]}, consistency.weight: {loguniform: [0.1, 1.0]}}
search: {trials: 40, stopping: {rule: none}}
"""


def test_a_wider_space_is_searched_beside_what_was_observed(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    narrow = record_of(sweep_of(tmp_path, FILE), path)
    for index in range(12):
        trial = narrow.begin(narrow.ask(), f"t{index}")
        narrow.complete(trial, at(1.0, fidelity=trial.values["observed.sigma"]), {})
    wide = sweep_of(tmp_path, FILE.replace("[0.2, 0.3]", "[0.05, 0.9]"))
    record = record_of(wide, path)
    assert len(record.earlier().trials) == 12
    found = []
    for index in range(20):
        trial = record.begin(record.ask(), f"u{index}")
        record.complete(trial, at(1.0, fidelity=trial.values["observed.sigma"]), {})
        found.append(trial.values["observed.sigma"])
    assert min(found) < 0.2 or max(found) > 0.3
    assert all(0.05 <= value <= 0.9 for value in found)


def test_the_frontier_of_another_sweep_is_tried_first(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, FILE)
    rows = [
        {"observed.sigma": 0.25, "consistency.weight": 0.5},
        {"observed.sigma": 0.25, "consistency.weight": 0.5},  # the same again
        {"observed.sigma": 0.9, "consistency.weight": 0.2},  # outside: the sampler draws it
        {"observed.sigma": None, "consistency.weight": 7.0},
    ]
    points = with_points(sweep, rows).points
    assert points == ({"observed.sigma": 0.25, "consistency.weight": 0.5}, {"consistency.weight": 0.2})
    with pytest.raises(UserError, match=r"--from: its frontier has no new values for observed\.sigma"):
        with_points(sweep, rows[-1:])
