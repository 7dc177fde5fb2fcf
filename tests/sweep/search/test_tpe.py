"""Every sampler in a conditional space; the default one against slow ways and against random draws."""

import itertools
import math
import random
from typing import Any

import numpy as np
import optuna
import pytest
from ambient_sweep.sweep.asking import Asker, StudyAsker, Told, make_asker, violations
from ambient_sweep.sweep.definition import Search
from ambient_sweep.sweep.distributions import Distribution
from ambient_sweep.sweep.parzen import DRAWS, Key, _Mixture
from ambient_sweep.sweep.tryout import try_sampler
from scipy.integrate import quad
from scipy.stats import qmc, truncnorm

from ambient_sweep import pareto
from ambient_sweep.errors import UserError
from ambient_sweep.sweep import conditions, tpe

SPACE = {
    "kind": Distribution("choice", ("plain", "late")),
    "sigma": Distribution("uniform", (0.05, 0.5), 0.05),
    "weight": Distribution("loguniform", (0.1, 3.0), when=(("kind", ("late",)),)),
    "steps": Distribution("int", (2, 8), 3, (("kind", ("late",)), ("sigma", (0.1, 0.15, 0.2, 0.25, 0.3)))),
    "width": Distribution("logint", (16, 512)),
}
PLAIN = {f"x{i}": Distribution("uniform", (0.0, 1.0)) for i in range(5)}
SAMPLERS = [
    "tpe",
    "random",
    "sobol",
    "qmc",
    "nsga2",
    "optuna:TPESampler",
    "optuna:NSGAIIISampler",
    "optuna:RandomSampler",
]


def curve(values: dict[str, Any], length: float) -> tuple[float, float]:
    return 60 * values["sigma"] + 20 / length + values.get("weight", 0), math.exp(-5 * values["sigma"]) * length


def drive(asker: Asker, count: int, side_by_side: int = 4) -> list[dict[str, Any]]:
    """Asks and tells, with a checkpoint each, some at a time; every seventh fails and every fifth is stopped."""
    given, running = [], []
    for number in range(count + side_by_side):
        if number < count:
            asked = asker.ask(f"c{number}")
            assert asked is not None
            given.append(asked.values)
            running.append((f"c{number}", number, asked))
        if number >= side_by_side:
            key, index, asked = running.pop(0)
            half = curve(asked.values, 0.5)
            asker.add("", Told(asked.values, "observation", 0.5, half, {"m": half[1] - 0.4}, asked.system))
            if index % 7 == 0:
                asker.end(key, Told(asked.values, "fail"))
            elif index % 5 == 0:
                asker.end(key, Told(asked.values, "pruned", constraints={"p": 0.5} if index % 2 else {}))
            else:
                asker.end(key, Told(asked.values, "complete", 1.0, curve(asked.values, 1.0), {"m": -0.1}))
    return given


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_active_keys_alone_are_proposed_within_their_ranges(sampler: str) -> None:
    asker = make_asker(SPACE, Search(sampler=sampler, seed=1, startup_trials=6))
    asker.add("point", Told({"kind": "late", "sigma": 0.15, "weight": 1.0, "steps": 5, "width": 20}, "running"))
    asker.add("old", Told({"kind": "plain", "sigma": 0.3, "width": 20}, "complete", 1.0, (1.0, 2.0), {"m": -1.0}))
    given = drive(asker, 60)
    asker.end("point", Told({"kind": "late", "sigma": 0.15, "weight": 1.0, "steps": 5, "width": 20}, "pruned"))
    for values in given:
        assert conditions.active(SPACE, values) == values
        assert {k for k in SPACE if conditions.is_active(SPACE[k], values)} == set(values)
        assert all(SPACE[key].read(value) == value for key, value in values.items())
    assert {len(values) for values in given} == {3, 4, 5}
    again = drive(make_asker(SPACE, Search(sampler=sampler, seed=1, startup_trials=6)), 12)
    assert again == drive(make_asker(SPACE, Search(sampler=sampler, seed=1, startup_trials=6)), 12)
    assert again != drive(make_asker(SPACE, Search(sampler=sampler, seed=1, startup_trials=6), seen=12), 12)


def test_every_observation_of_a_config_keeps_its_own_violations() -> None:
    asker = StudyAsker(PLAIN, optuna.samplers.NSGAIISampler(seed=1), "")
    asked = asker.ask("c")
    over = [{"memorization": length - 0.6} for length in (0.25, 0.5, 0.75)]
    for each in over:
        asker.add("", Told(asked.values, "observation", 0.5, (1.0, 1.0), each, asked.system))
    asker.end("c", Told(asked.values, "complete", 1.0, (1.0, 1.0), {"memorization": 0.4}, asked.system))
    found = asker._study.get_trials()
    assert [trial.constraints for trial in found] == [{"memorization": 0.4}, *over]
    assert "constraints" not in str(asked.system)


def test_gp_asks_too() -> None:
    given = drive(make_asker(PLAIN | {"sigma": SPACE["sigma"]}, Search(sampler="gp", seed=1, startup_trials=5)), 8)
    assert len({tuple(values.values()) for values in given}) == 8


def test_a_grid_is_every_config_in_order() -> None:
    finite = {key: SPACE[key] for key in ("kind", "sigma", "steps")}
    asker = make_asker(finite, Search(sampler="grid"))
    asked = list(itertools.takewhile(lambda a: a is not None, (asker.ask(str(i)) for i in range(100))))
    assert [a.values for a in asked if a] == list(conditions.configs(finite))


def test_sobol_is_scipys_sequence_and_goes_on_where_it_was() -> None:
    asker = make_asker(PLAIN, Search(sampler="sobol", seed=5))
    given = [list(asked.values.values()) for i in range(16) if (asked := asker.ask(str(i)))]
    assert np.allclose(given, qmc.Sobol(5, scramble=True, rng=5).random(16))
    later = make_asker(PLAIN, Search(sampler="sobol", seed=5), seen=10)
    goes_on = [list(asked.values.values()) for i in range(6) if (asked := later.ask(str(i)))]
    assert goes_on == given[10:]


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        (
            Search(sampler="optuna:Annealing"),
            "search.sampler=optuna:Annealing: optuna.samplers has no such class; it has",
        ),
        (Search(sampler="optuna:BaseSampler"), "optuna.samplers has no such class"),
        (Search(sampler="hub:auto_sampler"), "search.sampler=hub:auto_sampler: optunahub is not installed"),
        (Search(sampler="nsga2", sampler_args={"populace": 3}), "NSGAIISampler takes no 'populace'; it has"),
        (Search(sampler="nsga2", sampler_args={"population_size": 1}), "NSGAIISampler refuses {'population_size': 1}"),
        (Search(sampler="tpe", sampler_args={"multivariate": False, "group": True}), "TPESampler refuses"),
        (Search(sampler="optuna:GridSampler"), "search.sampler=optuna:GridSampler: lists the space"),
        (Search(sampler="optuna:PartialFixedSampler"), "PartialFixedSampler.__init__() missing 2 required"),
        (Search(sampler_args={"n_ei_candidates": 0}), "n_ei_candidates: expected a whole number of at least 1, not 0"),
        (
            Search(sampler_args={"n_ei_candidates": "x"}),
            "n_ei_candidates: expected a whole number of at least 1, not 'x'",
        ),
        (Search(sampler="random", sampler_args={"n": 3}), "search.sampler_args: random takes no 'n'; it has none"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused_in_one_line(search: Search, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        make_asker(PLAIN, search)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        (
            Search(sampler="optuna:CmaEsSampler"),
            "optuna:CmaEsSampler: CmaEsSampler: If the study is being used for multi-objective optimization, CmaEsSampler "
            "cannot be used; take another",
        ),
        (Search(sampler="optuna:BruteForceSampler"), "search.sampler=grid lists it here"),
        (
            Search(sampler_args={"gamma": 1}),
            "search.sampler=tpe: TPESampler: 'int' object is not callable; take another",
        ),
        (Search(sampler_args={"gamma": 1}, startup_trials=30), "TPESampler: 'int' object is not callable"),
        (Search(sampler_args={"n_ei_candidates": -3}), "n_ei_candidates: expected a whole number"),
    ],
)
def test_a_sampler_that_cannot_search_is_refused_before_anything_is_trained(search: Search, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        try_sampler(SPACE, search)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sampler", [*SAMPLERS, "gp"])
def test_samplers_that_work_pass_their_trial(sampler: str) -> None:
    try_sampler(SPACE, Search(sampler=sampler))


def test_violations_are_shares_of_the_bound() -> None:
    bounds = {"memorization": 0.05, "parameters": 100.0, "fidelity": 0.0, "memory_gib": 3.0}
    found = violations(bounds, {"memorization": 0.06, "parameters": 50, "fidelity": 4.0, "device_seconds": 9.0})
    assert found == pytest.approx({"memorization": 0.2, "parameters": -0.5, "fidelity": 4.0})


# -- the default sampler --------------------------------------------------------------------------------------------


def test_kernels_are_truncated_normals_and_densities_integrate_to_one() -> None:
    centres = [0.02, 0.5, 0.97]
    mixture = _Mixture(centres)
    width = 0.2 * 3**-0.2
    kernels = [truncnorm(-c / w, (1 - c) / w, c, w) for c, w in [*((c, width) for c in centres), (0.5, 1.0)]]
    points = np.linspace(0, 1, 41)
    assert np.allclose(mixture.density(points), np.mean([k.pdf(points) for k in kernels], axis=0))
    assert quad(lambda x: mixture.density(np.array([x]))[0], 0, 1)[0] == pytest.approx(1)
    drawn = mixture.draw(np.random.default_rng(0).random((20_000, 2)))
    for q in (0.1, 0.5, 0.9):
        wanted = np.mean([k.cdf(np.quantile(drawn, q)) for k in kernels])
        assert wanted == pytest.approx(q, abs=0.015)
    edges = np.array([0, 0.2, 0.7, 1.0])
    assert np.allclose(
        mixture.masses(edges),
        [quad(lambda x: mixture.density(np.array([x]))[0], a, b)[0] for a, b in itertools.pairwise(edges)],
    )


def test_keys_are_drawn_where_the_good_lie_and_the_bad_do_not() -> None:
    rng = np.random.default_rng(0)
    for distribution, good, bad in (
        (Distribution("uniform", (0.0, 1.0)), [0.1] * 6, [0.6] * 6),
        (Distribution("loguniform", (0.01, 100.0)), [0.02] * 6, [50.0] * 6),
        (Distribution("int", (0, 9)), [1] * 6, [8] * 6),
        (Distribution("int", (0, 100_000)), [9] * 6, [90_000] * 6),
        (Distribution("choice", ("a", "b", True)), ["a"] * 6, ["b"] * 6),
    ):
        drawn = [Key(distribution, good, bad).draw(rng.random((DRAWS, 2))) for _ in range(40)]
        away = [Key(distribution, bad, good).draw(rng.random((DRAWS, 2))) for _ in range(40)]
        near, far = good[0], bad[0]
        if distribution.kind == "choice":
            assert drawn.count(far) == 0 < drawn.count(near)
        else:
            assert (
                np.mean([distribution.share(v) for v in drawn]) < 0.4 < np.mean([distribution.share(v) for v in away])
            )


def test_the_best_are_those_of_the_lowest_ranks_and_the_most_hypervolume() -> None:
    rng = random.Random(3)
    for _ in range(300):
        points = [(float(rng.randrange(6)), float(rng.randrange(6))) for _ in range(rng.randrange(1, 14))]
        broken = [rng.choice((0.0, 0.0, 0.5, 1.0)) for _ in points]
        items = [tpe._Item((), {}, p, b) for p, b in zip(points, broken, strict=True)]
        count = rng.randrange(1, len(items) + 1)
        chosen = tpe.best(items, count)
        assert len(chosen) == len(set(chosen)) == count
        ranks = tpe.ranks(items)
        for i, j in itertools.product(range(len(items)), repeat=2):
            dominates = points[i] != points[j] and np.all(np.less_equal(points[i], points[j]))
            if broken[i] < broken[j] or (broken[i] == broken[j] == 0 and dominates):
                assert ranks[i] < ranks[j]
        assert max((ranks[i] for i in chosen), default=0) <= sorted(ranks)[count - 1]


def test_thinning_takes_the_least_hypervolume_away_each_time() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        x = np.sort(rng.random(9))
        front = np.column_stack([x, np.sort(rng.random(9))[::-1]])[rng.permutation(9)]
        reference = front.max(axis=0) + 0.1 * np.ptp(front, axis=0) + 1e-12
        left = list(range(9))
        while len(left) > 4:
            worth = [pareto.hypervolume(front[[i for i in left if i != gone]], reference) for gone in left]
            left.pop(int(np.argmax(worth)))
        assert sorted(tpe.thin(front, 4)) == left


def test_of_equal_points_one_stays() -> None:
    assert len(tpe.thin(np.full((4, 2), math.inf), 3)) == 3  # a level of trials without values
    front = np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])
    assert {tuple(row) for row in front[tpe.thin(front, 3)]} == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}


def test_the_history_stays_bounded_and_keeps_the_front() -> None:
    asker = tpe.HistoryTpe(PLAIN, Search(), 0)
    rng = random.Random(0)
    points = []
    for number in range(3000):
        x = rng.random()
        points.append((x, 1 - x + (0.001 if number < 400 and number % 4 == 0 else 2 * rng.random() + 0.1)))
        asker.add("", Told({"x0": x}, "observation", 1.0, points[-1]))
    assert len(asker._history) <= tpe.NEWEST + tpe.FRONT + tpe.SLACK
    kept = {item.objectives for item in asker._history}
    assert set(points[-tpe.NEWEST :]) <= kept
    whole = pareto.hypervolume(np.array(points), (1.2, 1.2))
    assert pareto.hypervolume(np.array(sorted(kept)), (1.2, 1.2)) > 0.99 * whole


def test_a_stopped_config_counts_as_bad_only_where_nothing_is_known_of_it() -> None:
    asker = tpe.HistoryTpe(PLAIN, Search(), 0)
    for key, observed in (("a", True), ("b", False)):
        asked = asker.ask(key)
        if observed:
            asker.add("", Told(asked.values, "observation", 0.5, (1.0, 1.0)))
        asker.end(key, Told(asked.values, "pruned"))
    assert [item.objectives for item in asker._history] == [(1.0, 1.0), (math.inf, math.inf)]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_it_beats_random_draws(sampler: str) -> None:
    """ZDT1 (Zitzler et al. 2000) in 5 dimensions; hypervolume after 100 configs, median of 7 seeds."""

    def volume(sampler: str, seed: int) -> float:
        asker = make_asker(PLAIN, Search(sampler=sampler, seed=seed, startup_trials=20, random_share=0))
        points = []
        for number in range(100):
            asked = asker.ask(f"c{number}")
            assert asked is not None
            x, *rest = asked.values.values()
            g = 1 + 9 * sum(rest) / len(rest)
            points.append((x, g * (1 - math.sqrt(x / g))))
            asker.end(f"c{number}", Told(asked.values, "complete", 1.0, points[-1]))
        return pareto.hypervolume(np.array(points), (1.1, 6.0))

    ours, random_ = ([volume(name, seed) for seed in range(7)] for name in (sampler, "random"))
    assert np.median(ours) > np.median(random_) + (0.5 if sampler == "tpe" else 0)


def test_it_learns_to_keep_to_a_constraint() -> None:
    def share_within(bound: bool) -> float:
        asker = make_asker(PLAIN, Search(seed=2, random_share=0))
        late = []
        for number in range(80):
            asked = asker.ask(f"c{number}")
            assert asked is not None
            x, y = asked.values["x0"], asked.values["x1"]
            over = {"memorization": x - 0.3} if bound else {}
            asker.end(f"c{number}", Told(asked.values, "complete", 1.0, (1 - x + y, 1 - x - y), over))
            late += [x <= 0.3] if number >= 40 else []
        return float(np.mean(late))

    assert share_within(True) > 0.5 > 0.3 > share_within(False)
