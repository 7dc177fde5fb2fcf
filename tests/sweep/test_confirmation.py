"""What is confirmed after a search, planned from tables that are made up of real records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from made_up_sweeps import add, fill

from ambient_sweep import pareto
from ambient_sweep.config import Config, build_config, dump
from ambient_sweep.results.export import export_tables
from ambient_sweep.sweep.confirmation import Plan, order_candidates, plan
from ambient_sweep.sweep.space.definition import Confirm, SweepTrial
from ambient_sweep.trial.records import read_evaluations, write_evaluation

HALF, FULL = 99_968, 200_000


def front_of_four(root: Path) -> Any:
    """Front: a and b at full length, b and c at half; d behind b, e behind all."""
    add(root, "a", {"observed.sigma": 0.1}, [(20.0, 0.5)])
    add(root, "b", {"observed.sigma": 0.2}, [(40.0, 0.1, 0.5), (30.0, 0.3, 1.0)])
    add(root, "c", {"observed.sigma": 0.3}, [(60.0, 0.05, 0.5), (61.0, 0.2, 1.0)])
    add(root, "d", {"observed.sigma": 0.4}, [(45.0, 0.2, 0.5)])
    add(root, "e", {"observed.sigma": 0.5}, [(90.0, 0.9, 1.0)])
    return export_tables(root).evaluations


def config_of(replicate: SweepTrial, base: Any = None) -> Config:
    return build_config(base or {}, replicate.values)


def length_of(replicate: SweepTrial, base: Any = None) -> int:
    config = config_of(replicate, base)
    return config.images_at(config.training.stop)


def candidates_of(found: Plan) -> list[tuple[str, int]]:
    """Trial and images of the candidates, best first."""
    return list(dict.fromkeys((each.trial_id, each.images) for each in found.remeasurements))


def test_the_order_is_that_of_rank_then_of_what_each_adds_alone() -> None:
    """Against peeling, and each point's volume by leaving it out."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.integers(0, 12, (int(rng.integers(1, 25)), 2)).astype(float)
        order, ranks = order_candidates(points)
        assert np.array_equal(ranks, pareto.nondominated_rank(points))
        assert sorted(order.tolist()) == list(range(len(points)))
        assert (np.diff(ranks[order]) >= 0).all()
        for rank in set(ranks.tolist()):
            front = points[ranks == rank]
            extent = np.where(np.ptp(front, axis=0) > 0, np.ptp(front, axis=0), 1)
            reference = front.max(axis=0) + 0.1 * extent
            inside = [index for index in order if ranks[index] == rank]
            everything = pareto.hypervolume(front / extent, reference / extent)
            adds = []
            for index in inside:
                others = np.delete(points, index, axis=0)[np.delete(ranks, index) == rank]
                adds.append(everything - pareto.hypervolume(others.reshape(-1, 2) / extent, reference / extent))
            assert (np.diff(adds) < 1e-9).all()


def test_front_first_then_near_it_and_each_with_the_same_fresh_seeds(tmp_path: Path) -> None:
    found = plan(front_of_four(tmp_path), Confirm(seeds=2, top=5), {})
    places = candidates_of(found)
    assert sorted(places[:4]) == [("a", FULL), ("b", HALF), ("b", FULL), ("c", HALF)]
    assert places[4:] == [("d", HALF)]
    assert (found.candidates, found.on_front) == (5, 4)
    trained = {(r.replicate_of, config_of(r).seed, length_of(r)) for r in found.replicates}
    longest = {"a": FULL, "b": FULL, "c": HALF, "d": HALF}  # b is wanted at two lengths and passes through the first
    assert trained == {(name, seed, images) for name, images in longest.items() for seed in (1, 2)}
    assert [config_of(r).seed for r in found.replicates] == [1] * 4 + [2] * 4, "seed by seed"
    assert found.images == 2 * (2 * FULL + 2 * HALF)
    original = {e.trial_id: e for e in read_evaluations(tmp_path)}
    for replicate in found.replicates:
        assert config_of(replicate).observed.sigma == {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}[replicate.label]
        assert replicate.role == "replicate"
        assert replicate.trial_id == f"{replicate.label}.{length_of(replicate)}.seed-{config_of(replicate).seed}"
        assert original[replicate.label]
    again = {(r.trial_id, r.images, r.seed, r.checkpoint) for r in found.remeasurements}
    assert again == {(name, images, 1, f"trials/{name}/checkpoints/images-{images:09d}") for name, images in places}


def test_values_leave_out_what_the_base_says(tmp_path: Path) -> None:
    table = front_of_four(tmp_path)
    base = dump(build_config({"evaluation.distances": ["fd_classifier", "fd_pixels"], "evaluation.samples": 500,
                              "evaluation.fidelity": "fd_classifier"}))  # fmt: skip
    whole = {r.trial_id: r for r in plan(table, Confirm(seeds=1), {}).replicates}
    for replicate in plan(table, Confirm(seeds=1), base).replicates:
        assert set(replicate.values) <= {"observed.sigma", "seed", "training.stop"}
        assert config_of(replicate, base) == config_of(whole[replicate.trial_id])


def test_a_plan_does_not_change_by_what_was_confirmed(tmp_path: Path) -> None:
    """Half of the replicates came in, and would be on the front themselves; fresh samples were measured too."""
    settings = Confirm(seeds=2, top=3, samples=1500)
    table = front_of_four(tmp_path)
    before = plan(table, settings, {})
    assert len(before.remeasurements) == 9, "three sets of 500"
    for replicate in before.replicates[:3]:
        points = [(10.0, 0.01, length_of(replicate) / FULL)]
        changes = {"role": "replicate", "replicate_of": replicate.replicate_of}
        add(tmp_path, replicate.trial_id, replicate.values, points, **changes)
    table = export_tables(tmp_path).evaluations
    again = table.slice(0, 1).set_column(
        table.schema.get_field_index("evaluation_seed"), "evaluation_seed", pa.array([1])
    )
    after = plan(pa.concat_tables([table, again.cast(table.schema)]), settings, {})
    assert after == before


def test_a_recipe_of_several_seeds_is_taken_at_its_mean(tmp_path: Path) -> None:
    """One lucky seed of three is not confirmed before a config that is better on average."""
    for seed, fidelity in enumerate((20.0, 60.0, 61.0)):
        add(tmp_path, f"x{seed}", {"observed.sigma": 0.2, "seed": seed}, [(fidelity, 0.2)], role="control")
    add(tmp_path, "y", {"observed.sigma": 0.3}, [(40.0, 0.2)])
    found = plan(export_tables(tmp_path).evaluations, Confirm(seeds=2, top=2), {})
    assert candidates_of(found) == [("y", FULL), ("x0", FULL)]
    assert found.on_front == 1
    assert {config_of(r).seed for r in found.replicates} == {3, 4}, "seeds that no trial has"


def test_shared_checkpoints_and_both_endpoints_are_one_candidate(tmp_path: Path) -> None:
    shared = [(30.0, 0.1, 0.5, "zero"), (33.0, 0.05, 0.5, "observed")]
    add(tmp_path, "a", {"consistency.start": 0.6}, shared)
    add(tmp_path, "b", {"consistency.start": 0.8}, [*shared, (70.0, 0.6, 1.0)])
    found = plan(export_tables(tmp_path).evaluations, Confirm(seeds=1), {})
    assert candidates_of(found) == [("a", HALF), ("b", FULL)]


def test_nothing_measured_nothing_planned_and_large_sweeps_keep_to_top(tmp_path: Path) -> None:
    add(tmp_path / "none", "a", {}, [(np.nan, 0.1)])
    empty = plan(export_tables(tmp_path / "none").evaluations, Confirm(), {})
    assert empty == Plan()
    assert empty.line().startswith("confirming 0 candidates")
    root = fill(tmp_path / "sweep", trials=20)
    for record in [e for e in read_evaluations(root) if e.trial_id == "trial-003"]:
        write_evaluation(root, replace(record, samples=100))
    found = plan(export_tables(root).evaluations, Confirm(), {})
    assert len(candidates_of(found)) == 8
    assert all(trial_id != "trial-003" for trial_id, _ in candidates_of(found))
    assert len({r.trial_id for r in found.replicates}) == len(found.replicates)
    seeds = {config_of(r).seed for r in found.replicates}
    assert len(seeds) == 3
    assert not seeds & set(range(20))
