from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_sweeps import add, make_evaluation

from ambient_sweep.config import build_config, dump, load_config, write_config
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.results import select
from ambient_sweep.results.confidence import with_standings
from ambient_sweep.results.select import best_config, candidates, frontier
from ambient_sweep.results.table import export_tables
from ambient_sweep.trial.records import read_evaluations, write_evaluation


def random_sweep(root: Path, rng: np.random.Generator) -> None:
    """Values from a coarse grid, so that models agree by chance; some not finite, some measured on fewer samples."""
    for i in range(int(rng.integers(1, 7))):
        points = []
        for fraction in (0.25, 0.5, 0.75, 1.0)[: rng.integers(1, 5)]:
            for endpoint in ("zero", "observed"):
                fidelity = float(rng.choice([*range(10, 16), np.nan, np.inf]))
                points.append((fidelity, float(rng.integers(0, 5)) / 10, fraction, endpoint))
        values = {"consistency.weight": 1.0 + i}
        add(root, f"t{i}", values, points, role=str(rng.choice(["search", "baseline", "control"])))
    for record in read_evaluations(root):
        if rng.random() < 0.15:
            write_evaluation(root, replace(record, samples=100))


def distinct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each model once: rows of one length, endpoint and values are of a run that trials share, told by the first."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: str(row["trial_id"])):
        found.setdefault((row["images"], row["endpoint"], row["fidelity"], row["memorization"]), row)
    return list(found.values())


def is_candidate(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    finite = [r for r in rows if np.isfinite(r["fidelity"]) and np.isfinite(r["memorization"])]
    return row in finite and row["samples"] == max(r["samples"] for r in finite)


def dominated(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    f, m = row["fidelity"], row["memorization"]
    return any(
        r["fidelity"] <= f and r["memorization"] <= m and (r["fidelity"] < f or r["memorization"] < m) for r in rows
    )


def chebyshev(row: dict[str, Any], front: list[dict[str, Any]], weight: float) -> float:
    terms = []
    for name, factor in (("fidelity", weight), ("memorization", 1 - weight)):
        values = [other[name] for other in front]
        terms.append(factor * (row[name] - min(values)) / ((max(values) - min(values)) or 1))
    return max(terms)


def names(rows: Any) -> list[tuple[Any, ...]]:
    rows = rows if isinstance(rows, list) else rows.to_pylist()
    return sorted((row["trial_id"], row["images"], row["endpoint"]) for row in rows)


def test_candidates_views_front_and_rules_equal_brute_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for case in range(40):
        root = tmp_path / str(case)
        random_sweep(root, rng)
        table = export_tables(root).evaluations
        rows = table.drop_columns(["on_front"]).to_pylist()
        everything = [row for row in rows if is_candidate(row, rows)]
        eligible = distinct(everything)
        front = [row for row in eligible if not dominated(row, eligible)]
        assert names(candidates(table)) == names(everything)
        assert names([row for row in table.to_pylist() if row["on_front"]]) == names(front)
        assert names(frontier(table)) == names(front)
        memorization = frontier(table)["memorization"].to_pylist()
        assert memorization == sorted(memorization)
        full = distinct([row for row in everything if row["fraction"] == 1])
        assert names(frontier(table, "full-length")) == names([row for row in full if not dominated(row, full)])
        main = [row for row in everything if row["main_endpoint"]]
        last = [r for r in main if r["images"] == max(o["images"] for o in main if o["trial_id"] == r["trial_id"])]
        last = distinct(last)
        assert names(frontier(table, "per-trial")) == names([row for row in last if not dominated(row, last)])
        allowed = sorted((r["fidelity"], r["memorization"], r["images"]) for r in eligible if r["memorization"] <= 0.2)
        if allowed:
            choice = select(table, "max-memorization=0.2")
            picked = [choice.row] if len(allowed) == 1 else [choice.row, choice.runner_up]
            found = [(r["fidelity"], r["memorization"], r["images"]) for r in picked if r]
            assert found == allowed[:2]
        if front:
            cost = chebyshev(select(table, "chebyshev=0.3").row, front, 0.3)
            assert cost == pytest.approx(min(chebyshev(row, front, 0.3) for row in front), abs=1e-12)
            assert names([select(table, "knee").row])[0] in names(front)


def sweep_of(root: Path, *points: tuple[float, float], **changes: Any) -> Any:
    for i, point in enumerate(points):
        add(root, f"t{i}", {"consistency.weight": 1.0 + i}, [point], **changes)
    return export_tables(root).evaluations


def test_rules_on_a_front_known_by_hand(tmp_path: Path) -> None:
    table = sweep_of(tmp_path, (100.0, 0.0), (40.0, 0.1), (30.0, 0.3), (20.0, 0.4), (90.0, 0.5))
    expected = {
        "knee": ("t1", "t2"),  # distances: (1 - 0.25 - 0.25), (1 - 0.125 - 0.75), 0 at the ends
        "max-memorization=0.3": ("t2", "t1"),
        "max-memorization=0": ("t0", None),
        "max-memorization=1": ("t3", "t2"),
        "chebyshev=0.5": ("t1", "t2"),  # 0.125, 0.375; the ends 0.5
        "chebyshev=0.9": ("t3", "t2"),  # 0.1, 0.1125, 0.225
        "chebyshev=0.001": ("t0", "t1"),
    }
    for rule, (first, second) in expected.items():
        choice = select(table, rule)
        assert (choice.row["trial_id"], choice.runner_up and choice.runner_up["trial_id"]) == (first, second)
        assert choice.rule == rule
        assert choice.reason
    assert "the 3 candidates, out of 5, with mem_excess <= 0.3" in select(table, "max-memorization=0.3").reason


def test_ties_go_to_less_memorization_then_less_training(tmp_path: Path) -> None:
    points = [(40.0, 0.2, 1.0), (40.0, 0.1, 1.0), (40.0, 0.1, 0.5)]
    add(tmp_path, "a", {}, points[:1])
    add(tmp_path, "b", {}, points[1:])
    table = export_tables(tmp_path).evaluations
    for rule in ("knee", "max-memorization=0.5", "chebyshev=0.5"):
        choice = select(table, rule)
        assert (choice.row["memorization"], choice.row["fraction"]) == (0.1, 0.5)
        assert choice.runner_up is not None
        assert choice.runner_up["fraction"] == 1.0
        assert select(table.take(list(range(table.num_rows))[::-1]), rule) == choice


def test_the_baseline_competes_like_all_others(tmp_path: Path) -> None:
    add(tmp_path, "noisy", {}, [(50.0, 0.2)])
    clean = {"observed.sigma": 0, "objective.kind": "denoising"}
    add(tmp_path, "clean", clean, [(40.0, 0.1)], role="baseline", status="failed")
    table = export_tables(tmp_path).evaluations
    assert names(frontier(table)) == [("clean", 200_000, "zero")]
    choice = select(table, "knee")
    assert choice.row["trial_id"] == "clean"
    assert choice.runner_up is None


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("elbow", "knee, max-memorization=C or chebyshev=W"),
        ("knee=3", "unknown rule"),
        ("", "unknown rule"),
        ("max-memorization", "expected a number from 0 to 1"),
        ("max-memorization=much", "expected a number from 0 to 1"),
        ("max-memorization=1.5", "expected a number from 0 to 1"),
        ("max-memorization=-0.1", "expected a number from 0 to 1"),
        ("max-memorization=nan", "expected a number from 0 to 1"),
        ("chebyshev=0", "strictly between 0 and 1"),
        ("chebyshev=1", "strictly between 0 and 1"),
        ("max-memorization=0.05", r"the least mem_excess is 0.125 \(trial t1 after 200000 images\)"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(tmp_path: Path, rule: str, words: str) -> None:
    table = sweep_of(tmp_path, (10.0, 0.3), (20.0, 0.125))
    with pytest.raises(UserError, match=words):
        select(table, rule)


def test_other_refusals(tmp_path: Path) -> None:
    table = sweep_of(tmp_path, (10.0, 0.3))
    with pytest.raises(UserError, match="unknown view 'all'; use checkpoints, full-length or per-trial"):
        frontier(table, "all")
    with pytest.raises(UserError, match="nothing to pick from"):
        select(table.slice(0, 0), "knee")
    with pytest.raises(UserError, match="nothing to pick from"):
        select(sweep_of(tmp_path / "b", (np.nan, 0.1)), "max-memorization=0.5")


def test_values_of_different_measures_are_never_ranked_together(tmp_path: Path) -> None:
    sweep_of(tmp_path, (10.0, 0.3))
    config = build_config({})
    add(tmp_path, "other", dump(config), [])
    write_evaluation(tmp_path, make_evaluation("other", config, 500.0, 0.4))
    add(tmp_path, "elsewhere", {}, [(30.0, 0.5)], reference_key="5ee5")
    table = export_tables(tmp_path).evaluations
    assert table["on_front"].to_pylist() == [True, True, True], "each is the only one of its kind"
    with pytest.raises(UserError, match="fidelity_measure: the table mixes fd_classifier and fd_pixels"):
        candidates(table)
    with pytest.raises(UserError, match="reference_key: the table mixes 4ef4 and 5ee5"):
        select(table.filter([row["fidelity_measure"] == "fd_classifier" for row in table.to_pylist()]), "knee")


def test_a_shared_checkpoint_counts_once_and_seeds_of_one_recipe_are_no_runner_up_of_each_other(tmp_path: Path) -> None:
    """Trial b forked from a at half its length; c is a once more with another seed; d is the only other answer."""
    shared = (30.0, 0.1, 0.5)
    add(tmp_path, "a", {"consistency.start": 0.6}, [shared, (25.0, 0.3, 1.0)])
    add(tmp_path, "b", {"consistency.start": 0.8}, [shared, (26.0, 0.35, 1.0)])
    add(tmp_path, "c", {"consistency.start": 0.6, "seed": 1}, [(31.0, 0.11, 0.5)])
    add(tmp_path, "d", {"consistency.start": 0.1}, [(40.0, 0.05, 0.25)])
    table = export_tables(tmp_path).evaluations
    assert names(candidates(table)).count(("b", 99_968, "zero")) == 1
    assert names(frontier(table)) == [("a", 99_968, "zero"), ("a", 200_000, "zero"), ("d", 49_984, "zero")]
    assert table["on_front"].to_pylist() == [True, True, False, False, False, True]
    choice = select(table, "max-memorization=0.2")
    assert choice.row["trial_id"] == "a"
    assert choice.runner_up is not None
    assert choice.runner_up["trial_id"] == "d", "b is the same model, c the same recipe"
    assert "the 3 candidates, out of 5," in choice.reason


def test_confidence_leaves_out_what_is_on_the_front_by_luck(tmp_path: Path) -> None:
    """The best value at little memorization was one of four seeds'; the other three tell another story."""
    for seed, fidelity in enumerate((25.0, 38.0, 39.0, 37.0)):
        add(tmp_path, f"lucky-{seed}", {"observed.sigma": 0.2, "seed": seed}, [(fidelity, 0.1)])
        add(tmp_path, f"sound-{seed}", {"observed.sigma": 0.4, "seed": seed}, [(30 + seed / 3, 0.09)])
    table = with_standings(export_tables(tmp_path).evaluations)
    assert select(table, "max-memorization=0.2").row["trial_id"] == "lucky-0"
    choice = select(table, "max-memorization=0.2", confident=0.8)
    assert choice.row["trial_id"] == "sound-0"
    assert choice.row["front_probability"] > 0.9
    assert choice.row["runs"] == 4
    assert choice.row["fidelity_mean"] == pytest.approx(30.5)
    assert choice.runner_up is None, "the lucky one is not so surely on the frontier"
    with pytest.raises(UserError, match=r"expected a probability, above 0 and up to 1"):
        select(table, "knee", confident=0.0)
    only = table.filter([row["trial_id"].startswith("lucky") for row in table.to_pylist()])
    with pytest.raises(UserError, match=r"the surest is trial lucky-. after 200000 images, 0\.\d+ by 4 training runs"):
        select(only, "knee", confident=0.999)


def test_a_nan_on_more_samples_disqualifies_nobody(tmp_path: Path) -> None:
    add(tmp_path, "a", {}, [(40.0, 0.2)])
    config = add(tmp_path, "b", {}, [])
    measures = {"fd_classifier": Measure(np.nan, None, None, 9000), "mem_excess": Measure(0.0, None, None, 9000)}
    write_evaluation(tmp_path, make_evaluation("b", config, 0, 0, samples=9000, measures=measures))
    assert names(candidates(export_tables(tmp_path).evaluations)) == [("a", 200_000, "zero")]


def test_the_best_config_trains_the_chosen_checkpoint(tmp_path: Path) -> None:
    values = {"observed.sigma": 0.2, "optimizer.lr": 3e-3, "data.heldout_size": 500, "evaluation.lengths": [0.3, 1.0]}
    trained = add(tmp_path, "a", values, [(40.0, 0.1, 0.3, "observed"), (30.0, 0.4, 1.0, "zero")])
    choice = select(export_tables(tmp_path).evaluations, "max-memorization=0.2")
    config = best_config(choice)
    changed = {"training.stop": 0.3, "evaluation.endpoints": ["observed"]}
    assert dump(config) == dump(trained) | changed
    assert config.images_at(config.training.stop) == choice.row["images"]
    assert config.steps == trained.steps, "the horizon of the schedules stays"
    write_config(config, tmp_path / "best.yaml")
    assert load_config(tmp_path / "best.yaml") == config
