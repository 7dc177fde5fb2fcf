from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_sweeps import add, make_evaluation, make_trial

from ambient_sweep.config import build_config, dump, load_config, write_config
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.results import select
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.candidates import candidates, frontier
from ambient_sweep.results.frontier.rival import what_noise_buys
from ambient_sweep.results.frontier.select import best_config, complete, read_candidates
from ambient_sweep.trial.records import read_evaluations, write_evaluation, write_trial


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


def front_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = distinct(rows)
    points = [(row["fidelity"], row["memorization"]) for row in rows]
    beaten = [any(x <= f and y <= m and (x, y) != (f, m) for x, y in points) for f, m in points]
    return [row for row, is_beaten in zip(rows, beaten, strict=True) if not is_beaten]


def names(rows: Any) -> list[tuple[Any, ...]]:
    rows = rows if isinstance(rows, list) else rows.to_pylist()
    return sorted((row["trial_id"], row["images"], row["endpoint"]) for row in rows)


def test_candidates_front_and_rules_equal_brute_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for case in range(12):
        root = tmp_path / str(case)
        random_sweep(root, rng)
        table = build_tables(root).evaluations
        rows = table.drop_columns(["on_front"]).to_pylist()
        everything = [row for row in rows if is_candidate(row, rows)]
        front = front_of(everything)
        assert names(candidates(table)) == names(everything)
        assert names([row for row in table.to_pylist() if row["on_front"]]) == names(frontier(table)) == names(front)
        memorization = frontier(table)["memorization"].to_pylist()
        assert memorization == sorted(memorization)
        allowed = [row for row in distinct(everything) if row["memorization"] <= 0.2]
        if allowed:
            choice = select(table, "max-memorization=0.2")
            best = (choice.row["fidelity"], choice.row["memorization"], choice.row["images"])
            assert best == min((r["fidelity"], r["memorization"], r["images"]) for r in allowed)
        if front:
            assert names([select(table, "knee").row])[0] in names(front)


def test_of_a_file_the_same_is_picked_as_of_its_whole_table(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(1), tmp_path / "evaluations.parquet"
    for case in range(12):
        root = tmp_path / str(case)
        random_sweep(root, rng)
        table = build_tables(root).evaluations
        if candidates(table).num_rows == 0:
            continue
        pq.write_table(table, path, row_group_size=3)
        slim = read_candidates(path)
        assert slim.num_columns < table.num_columns / 4, "columns that hold one value are not read"
        for rule in ("knee", "max-memorization=0.2", "max-memorization=-1", "chebyshev=1,2"):
            found, expected = complete(select(slim, rule), path), select(table, rule)
            slim_others, others = ([(row["trial_id"], why) for row, why in each.others] for each in (found, expected))
            assert slim_others == others
            same = replace(expected, others=found.others)
            assert repr(found) == repr(same), "repr, since NaN is not NaN"
            assert what_noise_buys(slim, found) == what_noise_buys(table, expected)
        within = table["checkpoint"][0].as_py()
        for folder in (within, within.partition("/checkpoints")[0]):
            part = [name == folder or name.startswith(f"{folder}/") for name in table["checkpoint"].to_pylist()]
            assert read_candidates(path, folder)["row"].to_pylist() == np.flatnonzero(part).tolist()


def test_of_a_file_the_seeds_of_each_recipe_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.parquet"
    for i, (lr, seed) in enumerate((lr, seed) for lr in (1e-3, 1e-4) for seed in (0, 1, 2)):
        clean = {"observed.sigma": 0.0, "objective.kind": "denoising", "optimizer.lr": lr, "seed": seed}
        points = [
            (30 + i - 20 * fraction + 1e5 * (lr - 1e-4), 0.4 * fraction, fraction) for fraction in (0.5, 0.75, 1.0)
        ]
        add(tmp_path, f"clean-{i}", clean, points, role="baseline")
    add(tmp_path, "noisy", {"observed.sigma": 0.3}, [(12.0, 0.25)])
    table = build_tables(tmp_path).evaluations
    pq.write_table(table, path)
    slim = read_candidates(path)
    assert "optimizer.lr" in slim.column_names
    found, expected = complete(select(slim, "max-memorization=0.3"), path), select(table, "max-memorization=0.3")
    assert what_noise_buys(slim, found) == what_noise_buys(table, expected)
    place = slim.column_names.index("optimizer.lr")
    equal = slim.set_column(place, slim.schema.field(place), pa.array([1e-3] * len(slim)))
    assert what_noise_buys(equal, found) != what_noise_buys(table, expected)


def sweep_of(root: Path, *points: tuple[float, float]) -> Any:
    for i, point in enumerate(points):
        add(root, f"t{i}", {"consistency.weight": 1.0 + i}, [point])
    return build_tables(root).evaluations


def test_rules_on_a_front_known_by_hand(tmp_path: Path) -> None:
    table = sweep_of(tmp_path, (100.0, 0.0), (40.0, 0.1), (30.0, 0.3), (20.0, 0.4), (90.0, 0.5))
    expected = {
        "knee": ("t1", "t2"),  # distances: (1 - 0.25 - 0.25), (1 - 0.125 - 0.75), 0 at the ends
        "max-memorization=0.3": ("t2", "t1"),
        "max-memorization=0": ("t0", "t1"),
        "max-memorization=1": ("t3", "t2"),
        "chebyshev=0.5,0.5": ("t1", "t2"),  # 0.125, 0.375; the ends 0.5
        "chebyshev=9,1": ("t3", "t2"),  # 1, 1.125, 2.25
        "chebyshev=0.001,0.999": ("t0", "t1"),
        "max-fidelity=35": ("t2", "t3"),
        "max-fidelity=200": ("t0", "t1"),
        "max-fidelity=20": ("t3", "t2"),
    }
    for rule, (first, second) in expected.items():
        choice = select(table, rule)
        assert (choice.row["trial_id"], choice.others[0][0]["trial_id"]) == (first, second)
        assert choice.reason
    choice = select(table, "max-memorization=0.3")
    assert "the 3 candidates, out of 5, with mem_excess <= 0.3" in choice.reason
    others = [
        ("t1", "fd_classifier 40, against 30"),
        ("t0", "fd_classifier 100, against 30"),
        ("t3", "mem_excess 0.4 > 0.3"),
    ]
    assert [(row["trial_id"], score) for row, score in choice.others] == others, "those on the frontier, and why not"
    assert select(table, "knee").others[0][1] == "0.09 below the line, against 0.35"


def test_a_frontier_of_equal_memorization_is_not_stretched(tmp_path: Path) -> None:
    """Beside clean training, which trades 0.5 of memorization, 0.01 of it is worth little."""
    clean = {"observed.sigma": 0.0, "objective.kind": "denoising"}
    add(tmp_path, "noisy", {"observed.sigma": 0.5}, [(14.0, -0.01)])
    add(tmp_path, "between", {"observed.sigma": 0.3}, [(13.0, 0.0)])
    add(tmp_path, "good", {"observed.sigma": 0.2}, [(8.0, 0.005)])
    assert select(build_tables(tmp_path).evaluations, "knee").row["trial_id"] in ("noisy", "good")
    add(tmp_path, "clean", clean, [(25.0, -0.01, 0.25), (12.0, 0.1, 0.5), (8.5, 0.5, 1.0)], role="baseline")
    choice = select(build_tables(tmp_path).evaluations, "knee")
    assert choice.row["trial_id"] == "good"
    assert select(build_tables(tmp_path).evaluations, "chebyshev=1,1").row["trial_id"] == "good"


def test_where_no_candidate_meets_a_bound_the_nearest_is_taken_with_a_warning(tmp_path: Path) -> None:
    table = sweep_of(tmp_path, (10.0, 0.3), (20.0, 0.125))
    choice = select(table, "max-memorization=0.05")
    assert (choice.row["trial_id"], choice.reason) == ("t1", "the nearest to mem_excess <= 0.05 of 2 candidates")
    assert choice.warning == "no candidate has mem_excess <= 0.05; the nearest has 0.125"
    assert select(table, "max-fidelity=9").warning == "no candidate has fd_classifier <= 9; the nearest has 10"
    assert select(table, "max-fidelity=10").warning is None


def test_single_points_are_called_what_they_are(tmp_path: Path) -> None:
    alone = sweep_of(tmp_path / "alone", (100.0, 0.0))
    best = sweep_of(tmp_path / "best", (100.0, 0.0), (120.0, 0.1))
    for rule in ("knee", "chebyshev=0.5,0.5"):
        assert select(alone, rule).reason == "the only candidate: there is nothing to compare it with"
        assert select(best, rule).reason.startswith(
            "the only point of the frontier: none of the 2 candidates is better"
        )
    assert select(alone, "max-memorization=0.1").reason == "the only one of 1 candidate with mem_excess <= 0.1"
    assert select(best, "max-memorization=0.05").reason == "the only one of 2 candidates with mem_excess <= 0.05"


def test_ties_go_to_less_memorization_then_less_training(tmp_path: Path) -> None:
    points = [(40.0, 0.2, 1.0), (40.0, 0.1, 1.0), (40.0, 0.1, 0.5)]
    add(tmp_path, "a", {}, points[:1])
    add(tmp_path, "b", {}, points[1:])
    table = build_tables(tmp_path).evaluations
    for rule in ("knee", "max-memorization=0.5", "chebyshev=0.5,0.5"):
        choice = select(table, rule)
        assert (choice.row["memorization"], choice.row["fraction"]) == (0.1, 0.5)
        assert select(table.take(list(range(table.num_rows))[::-1]), rule) == choice


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("elbow", "knee, max-memorization=C, max-fidelity=F or chebyshev=W1,W2"),
        ("knee=3", "unknown rule"),
        ("max-fidelity", "unknown rule"),
        ("max-memorization=much", "expected a number after"),
        ("max-memorization=nan", "expected a number after"),
        ("max-memorization=1,2", "expected a number after"),
        ("chebyshev=2", "two weights after '=', as in 0.5,0.5"),
        ("chebyshev=-1,2", "two weights"),
        ("chebyshev=0,0", "two weights"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(tmp_path: Path, rule: str, words: str) -> None:
    table = sweep_of(tmp_path, (10.0, 0.3), (20.0, 0.125))
    with pytest.raises(UserError, match=words):
        select(table, rule)


def test_values_of_different_measures_are_never_ranked_together(tmp_path: Path) -> None:
    tables = [sweep_of(tmp_path / "one", (10.0, 0.3))]
    write_evaluation(tmp_path / "other", make_evaluation("t", build_config({}), 500.0, 0.4))
    write_trial(tmp_path / "other", make_trial("t", build_config({})))
    add(tmp_path / "elsewhere", "t", {}, [(30.0, 0.5)], reference_key="5ee5")
    tables += [build_tables(tmp_path / name).evaluations for name in ("other", "elsewhere")]
    with pytest.raises(UserError, match="fidelity_measure: the table mixes fd_classifier and fd_pixels"):
        candidates(pa.concat_tables(tables))
    with pytest.raises(UserError, match="reference_key: the table mixes 4ef4 and 5ee5"):
        select(pa.concat_tables(tables[::2]), "knee")


def test_a_shared_checkpoint_counts_once(tmp_path: Path) -> None:
    """Trial b forked from a at half its length; c is a once more with another seed."""
    shared = (30.0, 0.1, 0.5)
    add(tmp_path, "a", {"consistency.start": 0.6}, [shared, (25.0, 0.3, 1.0)])
    add(tmp_path, "b", {"consistency.start": 0.8}, [shared, (26.0, 0.35, 1.0)])
    add(tmp_path, "c", {"consistency.start": 0.6, "seed": 1}, [(31.0, 0.11, 0.5)])
    add(tmp_path, "d", {"consistency.start": 0.1}, [(40.0, 0.05, 0.25)])
    table = build_tables(tmp_path).evaluations
    assert names(frontier(table)) == [("a", 99_968, "zero"), ("a", 200_000, "zero"), ("d", 49_984, "zero")]
    assert table["on_front"].to_pylist() == [True, True, False, False, False, True]
    assert table["runs"].to_pylist() == [2, 1, 2, 1, 2, 1], "a, b and c are one recipe at half their length"
    assert table["fidelity_mean"].to_pylist() == [30.5, 25.0, 30.5, 26.0, 30.5, 40.0]
    choice = select(table, "max-memorization=0.2")
    assert choice.row["trial_id"] == "a"
    assert [other["trial_id"] for other, _ in choice.others] == ["d", "a"], (
        "b is the same model as a at half its length"
    )
    assert "the 3 candidates, out of 5," in choice.reason


def test_a_nan_on_more_samples_disqualifies_nobody(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to pick from"):
        select(sweep_of(tmp_path, (np.nan, 0.0)), "max-memorization=0.5")
    add(tmp_path, "a", {}, [(40.0, 0.2)])
    config = add(tmp_path, "b", {}, [])
    measures = {"fd_classifier": Measure(np.nan, None, None, 9000), "mem_excess": Measure(0.0, None, None, 9000)}
    write_evaluation(tmp_path, make_evaluation("b", config, 0, 0, samples=9000, measures=measures))
    assert names(candidates(build_tables(tmp_path).evaluations)) == [("a", 200_000, "zero")]


def test_the_best_config_trains_the_chosen_checkpoint(tmp_path: Path) -> None:
    values = {"observed.sigma": 0.2, "optimizer.lr": 3e-3, "data.heldout_size": 500, "evaluation.lengths": [0.3, 1.0]}
    trained = add(tmp_path, "a", values, [(40.0, 0.1, 0.3, "observed"), (30.0, 0.4, 1.0, "zero")])
    choice = select(build_tables(tmp_path).evaluations, "max-memorization=0.2")
    config = best_config(choice)
    changed = {"training.stop": 0.3, "evaluation.endpoints": ["observed"]}
    assert dump(config) == dump(trained) | changed
    assert config.images_at(config.training.stop) == choice.row["images"]
    assert config.steps == trained.steps, "the horizon of the schedules stays"
    write_config(config, tmp_path / "best.yaml")
    assert load_config(tmp_path / "best.yaml") == config
