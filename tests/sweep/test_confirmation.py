"""What is confirmed after a search, planned from tables that are made up of real records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_up_sweeps import add, fill

from ambient_sweep import pareto
from ambient_sweep.config import Config, build_config, dump
from ambient_sweep.errors import UserError
from ambient_sweep.results.export import export_tables
from ambient_sweep.sweep.confirmation import Plan, Remeasurement, front_probability, order_candidates, plan
from ambient_sweep.sweep.space.definition import Confirm, SweepTrial
from ambient_sweep.trial.records import read_evaluations, write_evaluation, write_remeasurement

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


def test_the_order_is_that_of_rank_then_of_what_each_adds_alone() -> None:
    """Against peeling, and each point's volume by leaving it out."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.integers(0, 12, (int(rng.integers(1, 25)), 2)).astype(float)
        order, ranks = order_candidates(points), pareto.nondominated_rank(points)
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


def places(found: Plan) -> list[tuple[str, int]]:
    return [(each.trial_id, each.images) for each in found.remeasurements]


def test_the_other_runs_of_a_recipe_are_measured_too_so_that_its_mean_is_not_of_the_lucky_ones(tmp_path: Path) -> None:
    for seed, fidelity in enumerate((20.0, 90.0, 60.0)):
        add(tmp_path, f"s{seed}", {"observed.sigma": 0.2, "seed": seed}, [(fidelity, 0.1)])
    add(tmp_path, "worse", {"observed.sigma": 0.3}, [(95.0, 0.5)])
    # the same model as s1, under another recipe whose values come first: it is measured again in its place
    add(tmp_path, "z", {"observed.sigma": 0.2, "seed": 1, "consistency.weight": 0.5}, [(90.0, 0.1)])
    step = plan(export_tables(tmp_path).evaluations, Confirm(), {})
    assert sorted(places(step)) == [("s0", FULL), ("s2", FULL), ("z", FULL)]
    table = measure(tmp_path, step)
    assert {row["runs"] for row in table.to_pylist() if row["samples"] == 2000} == {3}


def test_the_ids_of_trials_which_are_random_and_the_order_of_rows_decide_nothing(tmp_path: Path) -> None:
    root = fill(tmp_path / "sweep", trials=40)
    for start in (0.6, 0.8, 0.9):
        add(root, f"s{start}", {"consistency.start": start, "observed.sigma": 0.7}, [(9.0, 0.1, 0.5), (20.0, start)])
    table = export_tables(root).evaluations
    columns = (table[name].to_pylist() for name in ("trial_id", "observed.sigma", "consistency.start"))
    configs = {name: values for name, *values in zip(*columns, strict=True)}
    plans = []
    for order in (np.arange(table.num_rows), np.random.default_rng(0).permutation(table.num_rows)):
        rows = table.take(order)
        names = {name: f"{i:03}" for i, name in enumerate(rows["trial_id"].unique().to_pylist())}
        ids = pa.array([names[name] for name in rows["trial_id"].to_pylist()])
        found = plan(rows.set_column(rows.schema.get_field_index("trial_id"), "trial_id", ids), Confirm(), {})
        named = {new: tuple(configs[old]) for old, new in names.items()}
        plans.append({(named[each.trial_id], each.images) for each in found.remeasurements})
    assert plans[0] == plans[1]


def measure(root: Path, found: Plan, **fidelities: float) -> Any:
    """Carries out remeasurements: values as before, or these of `fidelities` by trial; the table that comes of it."""
    records = read_evaluations(root)
    for again in found.remeasurements:
        for record in records:
            if (record.trial_id, record.images) == (again.trial_id, again.images):
                old = record.measures["fd_classifier"]
                value = fidelities.get(record.trial_id, old.value)
                measures = record.measures | {"fd_classifier": replace(old, value=value, n=again.samples)}
                write_remeasurement(root, replace(record, seed=again.seed, samples=again.samples, measures=measures))
    return export_tables(root).evaluations


def test_what_could_be_on_the_frontier_is_measured_then_the_frontier_once_more(tmp_path: Path) -> None:
    first = plan(front_of_four(tmp_path), Confirm(), {})
    assert places(first) == [("a", FULL), ("b", HALF), ("b", FULL), ("c", HALF)], "d and e are surely behind"
    checkpoint = f"trials/a/checkpoints/images-{FULL:09d}"
    assert first.remeasurements[0] == Remeasurement("a", FULL, checkpoint, 1, 2000)
    assert first.line == "measuring what could be on the frontier again, 4 checkpoints on 2,000 samples each"
    second = plan(measure(tmp_path, first, a=35.0), Confirm(), {})
    assert places(second) == [("b", HALF), ("b", FULL), ("c", HALF)], "a was on it by luck"
    assert {each.seed for each in second.remeasurements} == {2}
    assert plan(measure(tmp_path, second), Confirm(), {}) == Plan()


def test_what_was_measured_already_is_not_measured_again(tmp_path: Path) -> None:
    """A sweep that was interrupted between two measurements, and one that is to be confirmed on more samples."""
    first = plan(front_of_four(tmp_path), Confirm(), {})
    part = Plan(remeasurements=first.remeasurements[:1])
    rest = plan(measure(tmp_path, part), Confirm(), {})
    assert rest.remeasurements == first.remeasurements[1:]
    measure(tmp_path, rest)
    more = plan(export_tables(tmp_path).evaluations, Confirm(samples="8x"), {})
    assert [(each.seed, each.samples) for each in more.remeasurements] == [(1, 4000)] * 4
    with pytest.raises(UserError, match=r"confirm\.samples=2x: 4x were measured already; give that or more"):
        plan(export_tables(tmp_path).evaluations, Confirm(samples="2x"), {})


def test_the_frontier_of_clean_training_is_measured_too(tmp_path: Path) -> None:
    front_of_four(tmp_path)
    clean = {"observed.sigma": 0.0, "objective.kind": "denoising"}
    add(tmp_path, "clean", clean, [(70.0, 0.4, 0.5), (60.0, 0.8, 1.0), (99.0, 0.9, 0.25)], role="baseline")
    first = plan(export_tables(tmp_path).evaluations, Confirm(), {})
    assert ("clean", HALF) in places(first)
    second = plan(measure(tmp_path, first), Confirm(), {})
    assert {("clean", HALF), ("clean", FULL), ("a", FULL)} <= set(places(second))


def test_lucky_draws_around_the_frontier_are_candidates(tmp_path: Path) -> None:
    """Against a slow path: the share of drawn sets of true values in which no other point is better."""
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 1, (40, 2))
    errors = rng.uniform(0.01, 0.2, (40, 2))
    drawn = points + errors * rng.normal(size=(3000, 40, 2))
    on = [[not ((s <= p).all(axis=1) & (s < p).any(axis=1)).any() for p in s] for s in drawn]
    found = front_probability(points, errors)
    assert np.abs(found - np.mean(on, axis=0)).max() < 0.1
    exact = front_probability(points, np.zeros_like(points))
    assert exact.tolist() == pareto.pareto_mask(points).astype(float).tolist()


def trained(root: Path, found: Plan, fidelity: float = 10.0) -> None:
    for replicate in found.replicates:
        points = [(fidelity, 0.01, length_of(replicate) / FULL)]
        changes = {"role": "replicate", "replicate_of": replicate.replicate_of}
        add(root, replicate.trial_id, replicate.values, points, **changes)


def test_the_best_are_trained_with_the_same_fresh_seeds_and_measured_on_as_many_samples(tmp_path: Path) -> None:
    front_of_four(tmp_path)
    settings = Confirm(seeds=2, top=3)
    found = plan(export_tables(tmp_path).evaluations, settings, {})
    while found.remeasurements:
        found = plan(measure(tmp_path, found), settings, {})
    assert len({r.replicate_of for r in found.replicates}) in (2, 3), "b is wanted at two lengths and trained once"
    assert {config_of(r).seed for r in found.replicates} == {1, 2}
    assert [config_of(r).seed for r in found.replicates] == sorted(config_of(r).seed for r in found.replicates)
    for replicate in found.replicates:
        assert config_of(replicate).observed.sigma == {"a": 0.1, "b": 0.2, "c": 0.3}[replicate.label]
        assert replicate.trial_id == f"{replicate.label}.{length_of(replicate)}.seed-{config_of(replicate).seed}"
    trained(tmp_path, found)
    ids = [r.trial_id for r in found.replicates]
    last = plan(export_tables(tmp_path).evaluations, settings, {}, ended=ids)
    assert {each.trial_id for each in last.remeasurements} == set(ids)
    assert {each.samples for each in last.remeasurements} == {2000}
    table = measure(tmp_path, last)
    assert plan(table, settings, {}, ended=ids) == Plan()
    rows = [row for row in table.to_pylist() if row["on_front"]]
    assert {row["role"] for row in rows} == {"search"}, "a replicate is no candidate"
    assert {2} <= {row["runs"] for row in rows} <= {1, 2}


def test_seeds_alone(tmp_path: Path) -> None:
    """Without more samples: the replicates at once, whichever of them ended."""
    table, settings = front_of_four(tmp_path), Confirm(samples="0", seeds=1, top=8)
    found = plan(table, settings, {})
    assert not found.remeasurements
    longest = {"a": FULL, "b": FULL, "c": FULL, "d": HALF, "e": FULL}
    assert {r.replicate_of: length_of(r) for r in found.replicates} == longest
    trained(tmp_path, Plan(replicates=found.replicates[:2]))
    rest = plan(export_tables(tmp_path).evaluations, settings, {}, ended=[r.trial_id for r in found.replicates[:2]])
    assert rest.replicates == found.replicates[2:]


def test_a_checkpoint_counts_by_the_better_of_its_endpoints(tmp_path: Path) -> None:
    add(tmp_path, "a", {"observed.sigma": 0.1}, [(20.0, 0.1, 1.0, "zero"), (90.0, 0.9, 1.0, "observed")])
    add(tmp_path, "b", {"observed.sigma": 0.2}, [(50.0, 0.5, 1.0, "zero")])
    (first,) = plan(export_tables(tmp_path).evaluations, Confirm(samples="0", seeds=1, top=1), {}).replicates
    assert first.replicate_of == "a"


def test_values_leave_out_what_the_base_says(tmp_path: Path) -> None:
    table, settings = front_of_four(tmp_path), Confirm(samples="0", seeds=1)
    base = dump(build_config({"evaluation.distances": ["fd_classifier", "fd_pixels"], "evaluation.samples": 500,
                              "evaluation.fidelity": "fd_classifier"}))  # fmt: skip
    whole = {r.trial_id: r for r in plan(table, settings, {}).replicates}
    for replicate in plan(table, settings, base).replicates:
        assert set(replicate.values) <= {"observed.sigma", "seed", "training.stop"}
        assert config_of(replicate, base) == config_of(whole[replicate.trial_id])


def test_shared_checkpoints_and_both_endpoints_are_one_candidate(tmp_path: Path) -> None:
    shared = [(30.0, 0.1, 0.5, "zero"), (33.0, 0.05, 0.5, "observed")]
    add(tmp_path, "a", {"consistency.start": 0.6}, shared)
    add(tmp_path, "b", {"consistency.start": 0.8}, [*shared, (20.0, 0.6, 1.0)])
    found = plan(export_tables(tmp_path).evaluations, Confirm(), {})
    assert places(found) == [("a", HALF), ("b", FULL)]
    assert plan(measure(tmp_path, found), Confirm(), {}).remeasurements[0].seed == 2


def test_nothing_measured_nothing_planned(tmp_path: Path) -> None:
    add(tmp_path / "none", "a", {}, [(np.nan, 0.1)])
    assert plan(export_tables(tmp_path / "none").evaluations, Confirm(seeds=3), {}) == Plan()
    root = fill(tmp_path / "sweep", trials=20)
    for record in [e for e in read_evaluations(root) if e.trial_id == "trial-003"]:
        write_evaluation(root, replace(record, samples=100))
    found = plan(export_tables(root).evaluations, Confirm(), {})
    assert found.remeasurements
    assert all(trial_id != "trial-003" for trial_id, _ in places(found))
