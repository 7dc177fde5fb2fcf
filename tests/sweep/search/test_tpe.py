"""Every sampler in a conditional space; the default one against slow ways, against random draws, and in plain Optuna."""

import itertools
import math
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from scipy.integrate import quad
from scipy.stats import truncnorm

from ambient_sweep import pareto
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search import tpe
from ambient_sweep.sweep.search.samplers import build_sampler, try_sampler
from ambient_sweep.sweep.search.study import StudyRecord, open_study
from ambient_sweep.sweep.search.tpe import GroupedTPESampler
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import Search
from ambient_sweep.sweep.space.distributions import Distribution

SPACE = {
    "kind": Distribution("choice", ("plain", "late")),
    "sigma": Distribution("uniform", (0.05, 0.5), 0.05),
    "weight": Distribution("loguniform", (0.1, 3.0), when=(("kind", ("late",)),)),
    "steps": Distribution("int", (2, 8), 3, (("kind", ("late",)), ("sigma", (0.1, 0.15, 0.2, 0.25, 0.3)))),
    "width": Distribution("logint", (16, 512)),
}
PLAIN = {f"x{i}": Distribution("uniform", (0.0, 1.0)) for i in range(5)}
SAMPLERS = ["tpe", "random", "sobol", "nsga2", "TPESampler", "NSGAIIISampler", "gp"]


def record_of(search: Search, space: dict[str, Distribution], proposed: int = 0) -> StudyRecord:
    return StudyRecord(open_study("s", build_sampler(search, proposed)), space)


def drive(record: StudyRecord, count: int, side_by_side: int = 4) -> list[dict[str, Any]]:
    """Proposes and records, with an observation each, some at a time; every seventh fails, every fifth is stopped."""
    given, running = [], []
    for number in range(count + side_by_side):
        if number < count:
            trial = record.begin(record.ask(), f"t{number}")
            given.append(trial.values)
            running.append((number, trial))
        if number >= side_by_side:
            index, trial = running.pop(0)
            sigma, weight = trial.values.get("sigma", 0.3), trial.values.get("weight", 0.0)
            half = Report(500, 0.5, 60 * sigma + 40 + weight, math.exp(-5 * sigma) / 2)
            record.observe(trial, half, {"m": half.memorization - 0.4})
            if index % 7 == 0:
                record.fail(trial, "diverged")
            elif index % 5 == 0:
                record.prune(trial)
            else:
                values = 60 * sigma + 20 + weight, math.exp(-5 * sigma)
                record.complete(trial, Report(8, 1.0, *values), {"m": -0.1})
    return given


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_active_keys_alone_are_proposed_within_their_ranges(sampler: str) -> None:
    search = Search(sampler=sampler, seed=1)
    try_sampler(SPACE, search)
    given = drive(record_of(search, SPACE), 60 if sampler != "gp" else 14)
    for values in given:
        assert {k for k in SPACE if conditions.is_active(SPACE[k], values)} == set(values)
        assert all(SPACE[key].read(value) == value for key, value in values.items())
    assert {len(values) for values in given} == {3, 4, 5}
    again = drive(record_of(search, SPACE), 12)
    assert again == given[:12]
    if sampler not in ("sobol", "tpe", "random"):  # which count what is in the study
        assert drive(record_of(search, SPACE, proposed=12), 12) != again


def test_every_observation_of_a_config_keeps_its_own_violations() -> None:
    record = record_of(Search(sampler="nsga2"), PLAIN)
    trial = record.begin(record.ask(), "t")
    over = [{"memorization": length - 0.6} for length in (0.25, 0.5, 0.75)]
    for each in over:
        record.observe(trial, Report(1, 0.5, 1.0, 1.0), each)
    record.complete(trial, Report(2, 1.0, 1.0, 1.0), {"memorization": 0.4})
    assert [t.constraints for t in record.study.get_trials()] == [{"memorization": 0.4}, *over]


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        (Search(sampler="Annealing"), "search.sampler: unknown sampler 'Annealing'; choose one of tpe, random, grid,"),
        (Search(sampler="BruteForceSampler"), "search.sampler: unknown sampler 'BruteForceSampler'; "),
        (Search(sampler="tep"), "search.sampler: unknown sampler 'tep'; did you mean 'tpe'?"),
        (Search(sampler="nsga2", sampler_args={"size": 3}), "unknown key 'size'; nsga2 takes population_size"),
        (Search(sampler="nsga2", sampler_args={"populationsize": 3}), "did you mean 'population_size'?"),
        (Search(sampler="grid", sampler_args={"seed": 3}), "search.sampler_args: seed: give search.seed instead"),
        (Search(sampler="grid", sampler_args={"q": 3}), "unknown key 'q'; grid takes no arguments"),
        (
            Search(sampler="nsga2", sampler_args={"population_size": 1}),
            "NSGAIISampler refuses search.sampler_args={'pop",
        ),
        (Search(sampler="TPESampler", sampler_args={"multivariate": False, "group": True}), "TPESampler refuses"),
        (Search(sampler_args={"n_ei_candidates": 0}), "n_ei_candidates must be whole numbers"),
        (
            Search(sampler_args={"random_share": "x"}),
            "GroupedTPESampler refuses search.sampler_args={'random_share': 'x'}",
        ),
        (Search(sampler="TPESampler", sampler_args={"gamma": 1}), "TPESampler: 'int' object is not callable; choose"),
        (Search(sampler="TPESampler", sampler_args={"gamma": 1, "n_startup_trials": 10**9}), "is not callable"),
        (Search(sampler="TPESampler", sampler_args={"n_startup_trials": "x"}), "search.sampler: TPESampler: "),
    ],
)
def test_a_sampler_that_cannot_search_is_refused_in_one_line(search: Search, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        try_sampler(SPACE, search)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


# -- the default sampler, part by part --------------------------------------------------------------------------------


def test_kernels_are_truncated_normals_and_densities_integrate_to_one() -> None:
    centres = [0.02, 0.5, 0.97]
    mixture, width = tpe._Mixture(centres), 0.2 * 3**-0.2
    kernels = [truncnorm(-c / w, (1 - c) / w, c, w) for c, w in [*((c, width) for c in centres), (0.5, 1.0)]]
    points = np.linspace(0, 1, 41)
    assert np.allclose(mixture.density(points), np.mean([k.pdf(points) for k in kernels], axis=0))
    assert quad(lambda x: mixture.density(np.array([x]))[0], 0, 1)[0] == pytest.approx(1)
    drawn = mixture.draw(np.random.default_rng(0).random((20_000, 2)))
    for q in (0.1, 0.5, 0.9):
        assert np.mean([k.cdf(np.quantile(drawn, q)) for k in kernels]) == pytest.approx(q, abs=0.015)


@pytest.mark.parametrize(
    ("distribution", "good", "bad"),
    [
        (FloatDistribution(0.0, 1.0), 0.1, 0.6),
        (FloatDistribution(0.01, 100.0, log=True), 0.02, 50.0),
        (FloatDistribution(0.0, 1.0, step=0.1), 0.1, 0.6),
        (IntDistribution(0, 9), 1, 8),
        (IntDistribution(1, 100_000, log=True), 9, 90_000),
        (CategoricalDistribution(("a", "b", True)), "a", "b"),
    ],
)
def test_parameters_are_drawn_where_the_good_lie_and_the_bad_do_not(
    distribution: BaseDistribution, good: Any, bad: Any
) -> None:
    rng = np.random.default_rng(0)
    shares = [rng.random((24, 2)) for _ in range(40)]
    drawn, away, evenly = (
        [tpe.estimator(distribution, [good] * 6, [bad] * 6).draw(each) for each in shares],
        [tpe.estimator(distribution, [bad] * 6, [good] * 6).draw(each) for each in shares],
        [tpe.estimator(distribution).draw_evenly(float(each[0, 0])) for each in shares],
    )
    assert all(distribution._contains(distribution.to_internal_repr(v)) for v in [*drawn, *away, *evenly])
    if isinstance(distribution, CategoricalDistribution):
        assert drawn.count(bad) == 0 < drawn.count(good)
        assert set(evenly) == {"a", "b", True}
    else:
        assert abs(np.median(drawn) - good) < abs(np.median(drawn) - bad)
        assert abs(np.median(away) - bad) < abs(np.median(away) - good)


def test_the_best_are_those_of_the_lowest_ranks_and_the_most_hypervolume() -> None:
    rng = random.Random(3)
    for _ in range(300):
        points = [(float(rng.randrange(6)), float(rng.randrange(6))) for _ in range(rng.randrange(1, 14))]
        broken = [rng.choice((0.0, 0.0, 0.5, 1.0)) for _ in points]
        items = [tpe._Item(True, (), {}, p, b) for p, b in zip(points, broken, strict=True)]
        count = rng.randrange(1, len(items) + 1)
        chosen, ranks = tpe.best(items, count), tpe.ranks(items)
        assert len(chosen) == len(set(chosen)) == count
        for i, j in itertools.product(range(len(items)), repeat=2):
            dominates = points[i] != points[j] and np.all(np.less_equal(points[i], points[j]))
            if broken[i] < broken[j] or (broken[i] == broken[j] == 0 and dominates):
                assert ranks[i] < ranks[j]
        assert max(ranks[i] for i in chosen) <= sorted(ranks)[count - 1]


def test_thinning_takes_the_least_hypervolume_away_each_time() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        front = np.column_stack([np.sort(rng.random(9)), np.sort(rng.random(9))[::-1]])[rng.permutation(9)]
        reference = front.max(axis=0) + 0.1 * np.ptp(front, axis=0) + 1e-12
        left = list(range(9))
        while len(left) > 4:
            worth = [pareto.hypervolume(front[[i for i in left if i != gone]], reference) for gone in left]
            left.pop(int(np.argmax(worth)))
        assert sorted(tpe.thin(front, 4)) == left
    assert len(tpe.thin(np.full((4, 2), math.inf), 3)) == 3  # a level of trials without values
    equal = np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]])
    assert {tuple(row) for row in equal[tpe.thin(equal, 3)]} == {(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)}


def fitted(trials: list[tuple[dict[str, float], TrialState, list[float] | None]]) -> GroupedTPESampler:
    """The sampler after a study of such trials, all of one startup."""
    sampler = GroupedTPESampler(n_startup_trials=1, random_share=0)
    study = open_study("s", sampler)
    ranges = dict.fromkeys(("x", "y"), FloatDistribution(-10, 10))
    study.add_trials(
        [
            create_trial(state=state, params=params, distributions={k: ranges[k] for k in params}, values=values)
            for params, state, values in trials
        ]
    )
    study.ask({"x": FloatDistribution(-10, 10)})
    return sampler


def test_a_config_counts_once_as_good_where_one_of_its_checkpoints_is() -> None:
    done, pruned = TrialState.COMPLETE, TrialState.PRUNED
    sampler = fitted(
        [({"x": 1.0}, done, [9.0, 9.0]), ({"x": 1.0}, done, [0.0, 0.0]), ({"x": 1.0}, pruned, None)]
        + [({"x": float(x)}, done, [5.0, 5.0]) for x in (2, 2, 3)]
        + [({"x": 4.0}, pruned, None), ({"x": 3.0}, pruned, None)]
    )
    assert sampler._fit.good == [{"x": 1.0}]
    assert sorted(values["x"] for values in sampler._fit.bad) == [2.0, 3.0, 4.0]
    assert sampler._fit.history == 6, "pruned trials count only where nothing else is known"


def test_the_history_stays_bounded_and_keeps_the_front() -> None:
    rng = random.Random(0)
    heights = [0.001 if n < 400 and n % 4 == 0 else 2 * rng.random() + 0.1 for n in range(3000)]
    points = [(x := rng.random(), 1 - x + height) for height in heights]
    sampler = fitted([({"x": x}, TrialState.COMPLETE, [x, y]) for x, y in points])
    assert sampler._fit.history <= tpe.NEWEST + tpe.FRONT
    kept = {values["x"] for side in (sampler._fit.good, sampler._fit.bad) for values in side}
    assert {x for x, _ in points[-tpe.NEWEST :]} <= kept
    of_kept = np.array([point for point in points if point[0] in kept])
    assert pareto.hypervolume(of_kept, (1.2, 1.2)) > 0.99 * pareto.hypervolume(np.array(points), (1.2, 1.2))


# -- the default sampler in plain Optuna ------------------------------------------------------------------------------


def test_threads_and_further_studies_share_a_sampler() -> None:
    sampler = GroupedTPESampler(random_share=0.0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda t: sum(abs(t.suggest_float(f"x{i}", 0, 1) - 0.1) for i in range(4)), 200, n_jobs=4)
    finally:
        sys.setswitchinterval(before)
    other = optuna.create_study(sampler=sampler)
    for x in np.linspace(0, 1, 200):
        params = {f"x{i}": float(x) for i in range(4)}
        distributions: dict[str, BaseDistribution] = {name: FloatDistribution(0, 1) for name in params}
        other.add_trial(create_trial(params=params, distributions=distributions, value=abs(float(x) - 0.9)))
    assert other.ask().suggest_float("x0", 0, 1) > 0.7


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_choices_may_be_lists() -> None:
    study = optuna.create_study(sampler=GroupedTPESampler(random_share=0.0))
    lists = [[1], [1, 2], [1, 2, 3]]
    study.optimize(lambda t: len(t.suggest_categorical("x", lists)) + t.suggest_float("y", 0, 1), 60)
    assert [study.ask().suggest_categorical("x", lists) for _ in range(9)].count([1]) > 6


@pytest.mark.parametrize(
    "arguments", [{"n_ei_candidates": 24.5}, {"n_startup_trials": 0}, {"random_share": "half"}, {"seed": None}]
)
def test_arguments_of_another_type_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        GroupedTPESampler(**arguments)


def zdt1(trial: optuna.Trial) -> tuple[float, float]:
    """ZDT1 (Zitzler et al. 2000) in 5 dimensions."""
    x, *rest = (trial.suggest_float(f"x{i}", 0, 1) for i in range(5))
    g = 1 + 9 * sum(rest) / len(rest)
    return x, g * (1 - math.sqrt(x / g))


def volumes(make: Callable[[int], BaseSampler], seeds: int, trials: int = 80) -> list[float]:
    found = []
    for seed in range(seeds):
        study = optuna.create_study(sampler=make(seed), directions=["minimize"] * 2)
        study.optimize(zdt1, n_trials=trials)
        found.append(pareto.hypervolume(np.array([t.values for t in study.best_trials]), (1.1, 6.0)))
    return found


def test_it_beats_random_draws_and_keeps_up_with_optunas_tpe() -> None:
    """Hypervolume after 80 trials, median of 5 seeds, where a tenth of the volume lies between random draws and TPE."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ours = np.median(volumes(lambda seed: GroupedTPESampler(seed=seed, random_share=0), 5))
    half = np.median(volumes(lambda seed: GroupedTPESampler(seed=seed), 5))
    tpes = np.median(volumes(lambda seed: TPESampler(seed=seed), 3))
    draws = np.median(volumes(lambda seed: RandomSampler(seed=seed), 5))
    assert ours > draws + 0.5
    assert half > draws + 0.25
    assert ours > tpes - 0.3


@pytest.mark.parametrize("direction", [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])
def test_one_objective_and_a_space_defined_by_run(direction: StudyDirection) -> None:
    sign = -1 if direction == StudyDirection.MAXIMIZE else 1

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -5, 5)
        if trial.suggest_categorical("kind", ["narrow", "wide"]) == "wide":
            return sign * ((x - 2) ** 2 + abs(trial.suggest_int("n", 1, 64, log=True) - 8) + 1)
        rest = trial.suggest_float("y", 0, 1, step=0.25) + trial.suggest_float("z", 1e-4, 1, log=True)
        return sign * ((x - 2) ** 2 + rest)

    best = {}
    for sampler in (GroupedTPESampler(seed=1, random_share=0.2), RandomSampler(seed=1)):
        study = optuna.create_study(sampler=sampler, direction=direction)
        study.optimize(objective, n_trials=100)
        best[type(sampler)] = sign * study.best_value
        assert {len(t.params) for t in study.trials} == {3, 4}
    assert best[GroupedTPESampler] < 0.5 * best[RandomSampler]
    assert best[GroupedTPESampler] < 0.1


def test_it_learns_to_keep_to_a_constraint() -> None:
    def share_within(bound: bool) -> float:
        def objective(trial: optuna.Trial) -> tuple[float, float]:
            x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
            if bound:
                trial.set_constraint("memorization", x - 0.3)
            return 1 - x + y, 1 - x - y

        study = optuna.create_study(sampler=GroupedTPESampler(seed=2, random_share=0), directions=["minimize"] * 2)
        study.optimize(objective, n_trials=80)
        return float(np.mean([t.params["x"] <= 0.3 for t in study.trials[40:]]))

    assert share_within(True) > 0.5 > 0.3 > share_within(False)


def test_ranges_may_change_and_a_sampler_may_serve_another_study() -> None:
    def drawn(sampler: BaseSampler) -> list[float]:
        def objective(trial: optuna.Trial) -> float:
            low = trial.number % 2 * 0.5
            return abs(trial.suggest_float("x", low, low + 0.5) - 0.3)

        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=60)
        found = [trial.params["x"] for trial in study.trials]
        assert all(n % 2 * 0.5 <= x <= n % 2 * 0.5 + 0.5 for n, x in enumerate(found))
        return found

    sampler = GroupedTPESampler(seed=3, n_startup_trials=2, random_share=0)
    assert drawn(sampler) == drawn(sampler)


def test_draws_depend_on_the_seed_and_the_trial_alone_and_go_on_in_another_process() -> None:
    def drawn(seed: int, lives: tuple[int, ...]) -> list[float]:
        study = optuna.create_study(sampler=GroupedTPESampler(seed=seed))
        for count in lives:
            study.sampler = GroupedTPESampler(seed=seed)
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=count)
        return [t.params["x"] for t in study.trials]

    assert drawn(1, (9,)) == drawn(1, (4, 5)) != drawn(2, (9,))
    assert len(set(drawn(1, (20, 20)))) == 40


def test_more_than_two_objectives_are_refused() -> None:
    study = optuna.create_study(sampler=GroupedTPESampler(), directions=["minimize"] * 3)
    with pytest.raises(ValueError, match="takes one or two objectives, not 3"):
        study.ask()
