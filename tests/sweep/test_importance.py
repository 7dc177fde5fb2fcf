from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_up_sweeps import add

from ambient_sweep.results.export import build_tables
from ambient_sweep.sweep.importance import importance
from ambient_sweep.sweep.space.distributions import read_distribution

SPACE = {
    "observed.sigma": read_distribution({"uniform": [0.05, 0.5]}, "space"),
    "consistency.weight": read_distribution({"loguniform": [0.1, 3.0]}, "space"),
    "objective.kind": read_distribution({"choice": ["ambient", "ambient_consistency"]}, "space", "objective.kind"),
}


def planted(root: Path, trials: int) -> pa.Table:
    """Fidelity hangs on the weight alone, memorization on the noise level alone."""
    rng = np.random.default_rng(0)
    for i in range(trials):
        sigma, weight = float(rng.uniform(0.05, 0.5)), float(0.1 * 30 ** rng.random())
        kind = str(rng.choice(["ambient", "ambient_consistency"]))
        values = {"observed.sigma": sigma, "consistency.weight": weight, "objective.kind": kind}
        add(root, f"t{i:02d}", values, [(10 + weight, 0.5 - sigma, 1.0, "observed" if kind == "ambient" else "zero")])
    add(root, "clean", {"observed.sigma": 0, "objective.kind": "denoising"}, [(1.0, 0.9)], role="baseline")
    return build_tables(root).evaluations


def test_what_an_objective_hangs_on_is_important_for_it(tmp_path: Path) -> None:
    found = importance(planted(tmp_path, 40), SPACE)
    assert found.shares["consistency.weight"][0] > 0.7
    assert found.shares["observed.sigma"][1] > 0.7
    assert np.sum(list(found.shares.values()), axis=0) == pytest.approx([1, 1])
    assert "40 evaluations of 40 searched trials" in found.note


def test_too_few_evaluations_have_no_importance(tmp_path: Path) -> None:
    table = planted(tmp_path, 20)
    assert importance(table, SPACE).shares == {}
    assert "there are 20 evaluations of 20 searched trials" in importance(table, SPACE).note
    assert importance(table, {}).note == "Nothing was searched."


def test_a_key_counts_only_where_it_is_drawn(tmp_path: Path) -> None:
    when = {"loguniform": [0.1, 3.0], "when": {"objective.kind": "ambient_consistency"}}
    space = {name: SPACE[name] for name in ("observed.sigma", "objective.kind")}
    space["consistency.weight"] = read_distribution(when, "space")
    found = importance(planted(tmp_path, 40), space)
    assert found.shares["observed.sigma"][1] > 0.7
    assert np.sum(list(found.shares.values()), axis=0) == pytest.approx([1, 1])
