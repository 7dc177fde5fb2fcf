"""What the study is told, and what a resumed search remembers; with real Optuna studies, without Ray processes."""

import contextlib
import itertools
import math
import pickle
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from ambient_sweep.sweep.budget import Budget
from ambient_sweep.sweep.searcher import Outcome, SweepSearcher
from ambient_sweep.sweep.sources import Elsewhere
from ambient_sweep.sweep.study import open_study, optuna_distribution
from optuna.trial import TrialState
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from ambient_sweep.errors import UserError
from ambient_sweep.stages.planner import Planner
from ambient_sweep.sweep.space import Sweep, check_corners, load_sweep

REAL = """
space:
  observed.sigma: {uniform: [0.1, 0.5]}
  consistency.weight: {loguniform: [0.1, 10]}
  consistency.chain_steps: {int: [1, 8]}
points: [{observed.sigma: 0.25}]
controls: [{label: plain, seeds: [0, 1], set: {objective.kind: ambient}}]
search: {trials: 6, seed: 3}
"""
FINITE = """
space:
  consistency.ramp: {choice: [step, linear, cosine]}
  data_free: null
search: {trials: 50}
"""


def sweep_of(folder: Path, text: str, **overrides: Any) -> Sweep:
    path = folder / "s.yaml"
    path.write_text(text)
    return load_sweep(path, {key.replace("__", "."): value for key, value in overrides.items()})


def study_of(journal: Path, name: str = "s") -> optuna.Study:
    """The study as another process sees it."""
    return open_study(journal, name, optuna.samplers.RandomSampler())


def full(fidelity: Any, memorization: Any, **more: Any) -> dict[str, Any]:
    return {"fidelity": fidelity, "memorization": memorization, "done_full_length": True, "failed": None, **more}


@pytest.fixture
def ids() -> Iterator[str]:
    return (f"tune{i:02d}" for i in itertools.count())


def ask_all(searcher: Searcher, ids: Iterator[str]) -> dict[str, dict[str, Any]]:
    suggestions = {}
    for trial_id in ids:
        suggestion = searcher.suggest(trial_id)
        if suggestion == Searcher.FINISHED:
            break
        suggestions[trial_id] = suggestion
    return suggestions


def test_fixed_trials_come_first_and_stay_outside_the_study(tmp_path: Path, ids: Iterator[str]) -> None:
    searcher = SweepSearcher(sweep_of(tmp_path, REAL), tmp_path / "j")
    given = ask_all(searcher, ids)
    assert [s["role"] for s in given.values()] == ["baseline", "control", "control"] + ["search"] * 6
    assert next(iter(given)) == given["tune00"]["trial_id"]
    for trial_id in list(given)[:3]:
        searcher.on_trial_complete(trial_id, full(1.0, 0.1))
    study = study_of(tmp_path / "j")
    assert [t.user_attrs["trial_id"] for t in study.trials] == list(given)[3:]
    assert {t.state for t in study.trials} == {TrialState.RUNNING}


def test_values_keep_their_flat_dotted_keys_and_points_come_first(tmp_path: Path, ids: Iterator[str]) -> None:
    sweep = sweep_of(tmp_path, REAL)
    searched = list(ask_all(SweepSearcher(sweep, tmp_path / "j"), ids).values())[3:]
    assert all(set(s["values"]) == set(sweep.space) for s in searched)
    assert searched[0]["values"]["observed.sigma"] == 0.25
    for suggestion in searched:
        config = sweep.config_for(suggestion["values"])
        assert config.observed.sigma == suggestion["values"]["observed.sigma"]


@pytest.mark.parametrize(
    ("result", "error", "state", "values"),
    [
        (full(30.0, 0.1), False, TrialState.COMPLETE, [30.0, 0.1]),
        (full(30.0, 0.1, done_full_length=False), False, TrialState.PRUNED, None),
        ({"fidelity": 30.0, "memorization": 0.1}, False, TrialState.PRUNED, None),
        (None, False, TrialState.PRUNED, None),
        (None, True, TrialState.FAIL, None),
        (full(30.0, 0.1), True, TrialState.FAIL, None),
        (full(30.0, 0.1, failed="diverged"), False, TrialState.FAIL, None),
        (full(math.nan, math.nan, failed="diverged", done_full_length=False), False, TrialState.FAIL, None),
        (full(math.nan, 0.1), False, TrialState.FAIL, None),
        (full(30.0, math.inf), False, TrialState.FAIL, None),
        (full(-math.inf, 0.1), False, TrialState.FAIL, None),
        (full(30.0, None), False, TrialState.FAIL, None),
        ({"done_full_length": True, "failed": None}, False, TrialState.FAIL, None),
    ],
)
def test_what_the_study_is_told(
    tmp_path: Path, ids: Iterator[str], result: Any, error: bool, state: TrialState, values: Any
) -> None:
    searcher = SweepSearcher(sweep_of(tmp_path, REAL), tmp_path / "j")
    trial_id = list(ask_all(searcher, ids))[3]
    searcher.on_trial_result(trial_id, full(1.0, 0.2, done_full_length=False))  # no intermediate value either
    searcher.on_trial_complete(trial_id, result, error=error)
    trial = study_of(tmp_path / "j").trials[0]
    assert (trial.state, trial.values) == (state, values)
    assert trial.intermediate_values == {}
    assert trial.params["length"] == 1.0
    assert ("why" in trial.user_attrs) == (state == TrialState.FAIL)


def test_optuna_search_itself_takes_a_stopped_trial_for_a_complete_one(tmp_path: Path) -> None:
    """Why there is a subclass. Should this fail one day, the subclass may have become needless."""
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    plain = OptunaSearch(space, metric=["fidelity", "memorization"], mode=["min", "min"])
    plain.suggest("a")
    plain.on_trial_complete("a", full(30.0, math.inf, done_full_length=False))
    assert plain._ot_study.trials[0].state == TrialState.COMPLETE


def test_the_sampler_goes_on_after_pruned_and_failed_trials(tmp_path: Path, ids: Iterator[str]) -> None:
    for sampler in ("tpe", "nsga2", "random", "qmc"):
        sweep = sweep_of(tmp_path, REAL, search__trials=16, search__sampler=sampler, search__startup_trials=4)
        searcher = SweepSearcher(sweep, tmp_path / sampler, concurrent=2)
        endings = itertools.cycle([full(1.0, 0.5), None, full(math.nan, 1.0), full(2.0, 0.25)])
        for trial_id in (f"{sampler}{i}" for i in itertools.count()):
            if searcher.suggest(trial_id) == Searcher.FINISHED:
                break
            searcher.on_trial_complete(trial_id, next(endings))
        trials = study_of(tmp_path / sampler).trials  # NSGA-II also draws children that equal a parent
        states = [t.state for t in trials if "trial_id" in t.user_attrs]
        assert len(states) == 16
        assert TrialState.RUNNING not in states
        assert TrialState.COMPLETE in states


def test_the_limit_of_concurrency_works_around_it(tmp_path: Path, ids: Iterator[str]) -> None:
    limited = ConcurrencyLimiter(SweepSearcher(sweep_of(tmp_path, REAL), tmp_path / "j"), max_concurrent=2)
    first, second = next(ids), next(ids)
    assert limited.suggest(first)
    assert limited.suggest(second)
    assert limited.suggest(next(ids)) is None
    limited.on_trial_complete(first, full(1.0, 1.0))
    assert limited.suggest(next(ids))


# -- resuming -------------------------------------------------------------------------------------------------------


def test_a_resumed_search_keeps_what_ended_and_hands_out_the_rest(tmp_path: Path) -> None:
    sweep, journal = sweep_of(tmp_path, REAL), tmp_path / "j"
    first = SweepSearcher(sweep, journal)
    given = {trial_id: first.suggest(trial_id) for trial_id in ("b", "c0", "c1", "s0", "s1", "s2", "s3")}
    first.on_trial_complete("s0", full(3.0, 0.5))
    # The driver is killed. s1 had come to its end without being told, s2 failed, c1 and s3 run.
    outcomes = {
        "b": Outcome(True, (9.0, 0.9)), "c0": Outcome(True), "c1": Outcome(False), "s0": Outcome(True, (3.0, 0.5)),
        "s1": Outcome(True, (2.0, 0.75)), "s2": Outcome(True), "s3": Outcome(False),
    }  # fmt: skip
    second = SweepSearcher(sweep, journal, outcomes=outcomes)
    assert not second.finished
    again = ask_all(second, (f"new{i}" for i in itertools.count()))
    assert [s["trial_id"] for s in again.values()] == ["c1", "s3", "new2", "new3"]
    assert again["new0"] == given["c1"]
    assert again["new1"] == given["s3"]
    for tune_id in again:
        second.on_trial_complete(tune_id, full(1.0, 1.0))
    states = {t.user_attrs["trial_id"]: (t.state, t.values) for t in study_of(journal).trials}
    assert states == {
        "s0": (TrialState.COMPLETE, [3.0, 0.5]), "s1": (TrialState.COMPLETE, [2.0, 0.75]),
        "s2": (TrialState.FAIL, None), "s3": (TrialState.COMPLETE, [1.0, 1.0]),
        "new2": (TrialState.COMPLETE, [1.0, 1.0]), "new3": (TrialState.COMPLETE, [1.0, 1.0]),
    }  # fmt: skip
    everything = outcomes | {trial_id: Outcome(True) for trial_id in ("c1", "s3", "new2", "new3")}
    assert SweepSearcher(sweep, journal, outcomes=everything).finished


def test_a_trial_that_failed_and_then_came_through_counts(tmp_path: Path) -> None:
    sweep, journal = sweep_of(tmp_path, REAL.replace("controls", "# controls")), tmp_path / "j"
    first = SweepSearcher(sweep, journal)
    first.suggest("b")
    values = first.suggest("s0")["values"]
    first.on_trial_complete("s0", error=True)  # its worker was lost too often
    second = SweepSearcher(sweep, journal, outcomes={"b": Outcome(True), "s0": Outcome(False)})
    assert second.suggest("new")["values"] == values
    second.on_trial_complete("new", full(5.0, 0.5))
    done = [t for t in study_of(journal).trials if t.state == TrialState.COMPLETE]
    assert [(t.params, t.values) for t in done] == [({**values, "length": 1.0}, [5.0, 0.5])]
    third = SweepSearcher(sweep, journal, outcomes={"b": Outcome(True), "s0": Outcome(True)})
    assert len(ask_all(third, (f"t{i}" for i in itertools.count()))) == sweep.search.trials - 1


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc", "optuna:TPESampler"])
def test_a_resumed_search_does_not_repeat_its_draws(tmp_path: Path, sampler: str) -> None:
    sweep = sweep_of(
        tmp_path, REAL.replace("points", "# points"), search__trials=8, search__sampler=sampler, search__ask_seconds=0
    )
    journal = tmp_path / "j"
    first = SweepSearcher(sweep, journal)
    ended: dict[str, Outcome] = {}
    drawn = []
    for session in range(2):
        searcher = first if session == 0 else SweepSearcher(sweep, journal, outcomes=ended)
        for i in range(7 if session == 0 else 4):
            suggestion = searcher.suggest(f"{session}.{i}")
            searcher.on_trial_complete(f"{session}.{i}", full(1.0, 1.0))
            ended[f"{session}.{i}"] = Outcome(True, (1.0, 1.0))
            if suggestion["role"] == "search":
                drawn.append(tuple(suggestion["values"].values()))
    assert len(drawn) == 8
    assert len(set(drawn)) == 8


def test_a_finite_space_is_searched_once_to_its_end(tmp_path: Path, ids: Iterator[str]) -> None:
    text = FINITE.replace("data_free: null", "consistency.chain_steps: {int: [1, 4]}")
    for sampler in ("tpe", "random", "nsga2", "grid"):
        sweep = sweep_of(tmp_path, text, search__sampler=sampler)
        searcher = SweepSearcher(sweep, tmp_path / sampler)
        given = []
        for trial_id in (f"{sampler}{i}" for i in itertools.count()):
            suggestion = searcher.suggest(trial_id)
            if suggestion == Searcher.FINISHED:
                break
            searcher.on_trial_complete(trial_id, full(1.0, 0.5))
            given.append(suggestion)
        searched = [tuple(s["values"].values()) for s in given if s["role"] == "search"]
        assert len(searched) == len(set(searched)) == 12
        assert searcher.finished
        assert len(study_of(tmp_path / sampler).trials) == 12  # what is drawn and not handed out leaves no trace


def test_a_torn_last_line_does_not_lose_the_study(tmp_path: Path) -> None:
    sweep, journal = sweep_of(tmp_path, REAL), tmp_path / "j"
    searcher = SweepSearcher(sweep, journal)
    for trial_id in ("b", "c0", "c1", "s0"):
        searcher.suggest(trial_id)
    searcher.on_trial_complete("s0", full(3.0, 0.5))
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"work')
    assert [t.values for t in study_of(journal).trials if t.state == TrialState.COMPLETE] == [[3.0, 0.5]]
    SweepSearcher(sweep, journal, outcomes={name: Outcome(True) for name in ("b", "c0", "c1", "s0")}).suggest("s1")
    assert len([t for t in study_of(journal).trials if "trial_id" in t.user_attrs]) == 2


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"what is this\nand this\n")
    with pytest.raises(UserError, match=r"j: damaged"):
        SweepSearcher(sweep_of(tmp_path, REAL), tmp_path / "j")


@pytest.mark.parametrize("line", ["123", "null", "[]", '{"op_code": 99}', '{"op_code": 0}', "[" * 100_000])
def test_a_damaged_line_is_told_in_one(tmp_path: Path, line: str) -> None:
    sweep = sweep_of(tmp_path, REAL)
    with contextlib.closing(SweepSearcher(sweep, tmp_path / "j")) as searcher:
        ask_all(searcher, (f"t{i}" for i in range(5)))
    with (tmp_path / "j").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"j: damaged \(.+\); restore it") as caught:
        SweepSearcher(sweep, tmp_path / "j")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, ""])
def test_trials_without_their_study_are_not_begun_anew(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "j").write_text(text)
    outcomes = {"b": Outcome(True), "s0": Outcome(True, (1.0, 0.5))}
    with pytest.raises(UserError, match=r"j: knows none of the 2 trials of this sweep, .*; restore it, or start again"):
        SweepSearcher(sweep_of(tmp_path, REAL), tmp_path / "j", outcomes=outcomes)


def test_a_folder_in_the_studys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(UserError, match=r"j: cannot be read \(Is a directory\)"):
        SweepSearcher(sweep_of(tmp_path, REAL), tmp_path / "j")


def test_configs_that_contradict_themselves_do_not_end_the_search(tmp_path: Path) -> None:
    """128 / 48 heads are none; no corner of the space shows it."""
    text = """
    base: {model.kind: dit}
    space:
      model.width: {int: [96, 192], step: 32}
      model.head_width: {choice: [32, 48]}
    search: {trials: 8, sampler: grid}
    """
    sweep, journal = sweep_of(tmp_path, textwrap.dedent(text)), tmp_path / "j"
    assert check_corners(sweep)
    prefixes = Planner(sweep.config_for)
    outcomes, given = {}, []
    for session in range(2):
        hooks = {"cost": prefixes.cost, "busy": prefixes.busy}
        searcher = SweepSearcher(sweep, journal, outcomes=outcomes, concurrent=1, **hooks)  # type: ignore[arg-type]
        for number in range(3 if session == 0 else 20):
            suggestion = searcher.suggest(f"{session}.{number}")
            if suggestion == Searcher.FINISHED:
                break
            searcher.on_trial_complete(f"{session}.{number}", full(1.0, 0.5))
            outcomes[f"{session}.{number}"] = Outcome(True, (1.0, 0.5))
            given += [suggestion["values"]] if suggestion["role"] == "search" else []
        assert searcher.finished == (session == 1)
        searcher.close()
    allowed = [(w, h) for w in (96, 128, 160, 192) for h in (32, 48) if w % h == 0]
    assert sorted((v["model.width"], v["model.head_width"]) for v in given) == allowed
    refused = [t for t in study_of(journal).trials if t.state == TrialState.FAIL]
    assert sorted(t.params["model.width"] for t in refused) == [128, 160]  # once each, over both sessions
    assert all("model.head_width" in t.user_attrs["why"] for t in refused)


def test_tunes_snapshot_of_it_is_a_note_and_no_pickle(tmp_path: Path) -> None:
    searcher = SweepSearcher(sweep_of(tmp_path, REAL), tmp_path / "j")
    searcher.save(str(tmp_path / "snapshot"))
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads((tmp_path / "snapshot").read_bytes())  # noqa: S301
    searcher.restore(str(tmp_path / "snapshot"))
    assert searcher.suggest("b")["role"] == "baseline"


def test_distributions_become_optunas(tmp_path: Path) -> None:
    space = sweep_of(tmp_path, REAL.replace("int: [1", "logint: [1")).space
    floats = optuna.distributions.FloatDistribution
    assert optuna_distribution(space["observed.sigma"]) == floats(0.1, 0.5)
    assert optuna_distribution(space["consistency.weight"]) == floats(0.1, 10, log=True)
    assert optuna_distribution(space["consistency.chain_steps"]) == optuna.distributions.IntDistribution(1, 8, log=True)


# -- observations, constraints, replicates ------------------------------------------------------------------------------


def at(fraction: float, fidelity: float, memorization: float, **more: Any) -> dict[str, Any]:
    report = {"fidelity": fidelity, "memorization": memorization, "images": int(1000 * fraction), "fraction": fraction}
    return report | {"evaluated": True, "done_full_length": False, "failed": None, "full_samples": True} | more


BARE = REAL.replace("controls", "# controls").replace("points", "# points").replace("trials: 6", "trials: 9")


def observations(journal: Path) -> list[tuple[Any, ...]]:
    return [
        (t.user_attrs["observation_of"], t.user_attrs["images"], t.params["length"], t.values)
        for t in study_of(journal).trials
        if "observation_of" in t.user_attrs
    ]


def test_every_full_evaluation_is_an_observation_once(tmp_path: Path) -> None:
    sweep, journal = sweep_of(tmp_path, BARE), tmp_path / "j"
    searcher = SweepSearcher(sweep, journal)
    given = {name: searcher.suggest(name)["values"] for name in ("b", "s0", "s1", "s2")}
    for name in ("b", "s0", "s1"):
        searcher.on_trial_result(name, at(0.25, 9.0, 0.1))
        searcher.on_trial_result(name, at(0.25, 9.0, 0.1))  # told again after its worker was lost
        searcher.on_trial_result(name, at(0.5, 8.0, math.nan))
        searcher.on_trial_result(name, at(0.6, 8.0, 0.2, full_samples=False))
        searcher.on_trial_result(name, at(0.75, 7.0, 0.3))
        searcher.on_trial_result(name, at(1.0, 6.0, 0.4))  # its end says this
    searcher.on_trial_complete("s0", full(6.0, 0.4, evaluated=False))
    searcher.on_trial_complete("s1", at(1.0, 6.0, 0.4))  # stopped, at its full length
    searcher.on_trial_result("s2", at(0.25, 5.0, 0.5))
    wanted = [
        (name, 1000 * f, f, values) for name in ("s0", "s1") for f, values in ((0.25, [9.0, 0.1]), (0.75, [7.0, 0.3]))
    ]
    assert observations(journal) == [*wanted, ("s2", 250, 0.25, [5.0, 0.5])]
    # The driver dies; what is reported once more of s2 is known.
    second = SweepSearcher(
        sweep, journal, outcomes={n: Outcome(True) for n in ("b", "s0", "s1")} | {"s2": Outcome(False)}
    )
    assert second.suggest("new")["values"] == given["s2"]
    second.on_trial_result("new", at(0.25, 5.0, 0.5))
    second.on_trial_result("new", at(0.5, 4.0, 0.5))
    second.on_trial_complete("new", at(0.5, 4.0, 0.5))
    assert observations(journal) == [*wanted, ("s2", 250, 0.25, [5.0, 0.5]), ("s2", 500, 0.5, [4.0, 0.5])]
    trials = {t.user_attrs["trial_id"]: t for t in study_of(journal).trials if "trial_id" in t.user_attrs}
    assert {name: (t.state.name, t.values) for name, t in trials.items()} == {
        "s0": ("COMPLETE", [6.0, 0.4]), "s1": ("COMPLETE", [6.0, 0.4]), "s2": ("PRUNED", None),
    }  # fmt: skip
    third = SweepSearcher(sweep, journal, outcomes={name: Outcome(True) for name in ("b", "s0", "s1", "s2")})
    third.suggest("s3")
    assert third._source is not None
    learned = third._source._asker._history  # type: ignore[attr-defined]
    assert sorted(item.objectives for item in learned) == sorted(
        [(9.0, 0.1), (7.0, 0.3), (6.0, 0.4)] * 2 + [(5.0, 0.5), (4.0, 0.5)]
    )


def test_full_length_alone_can_be_observed(tmp_path: Path) -> None:
    searcher = SweepSearcher(sweep_of(tmp_path, BARE, search__observations="full-length"), tmp_path / "j")
    for name in ("b", "s0"):
        searcher.suggest(name)
        searcher.on_trial_result(name, at(0.25, 9.0, 0.1))
    assert observations(tmp_path / "j") == []


def test_the_length_of_a_trial_is_where_it_stops(tmp_path: Path) -> None:
    text = "space: {training.stop: {choice: [0.25, 0.5]}, observed.sigma: {uniform: [0.1, 0.5]}}\nsearch: {trials: 4}"
    searcher = SweepSearcher(sweep_of(tmp_path, text), tmp_path / "j")
    searcher.suggest("b")
    for name in ("s0", "s1", "s2", "s3"):
        stop = searcher.suggest(name)["values"]["training.stop"]
        searcher.on_trial_result(name, at(0.125, 3.0, 0.2))
        searcher.on_trial_result(name, at(stop, 2.0, 0.3))
        searcher.on_trial_complete(name, full(2.0, 0.3))
    assert [o[2] for o in observations(tmp_path / "j")] == [0.125] * 4
    ended = [t for t in study_of(tmp_path / "j").trials if "trial_id" in t.user_attrs]
    assert all(t.params["length"] == t.params["training.stop"] and t.values == [2.0, 0.3] for t in ended)


def test_constraints_reach_the_study_and_refuse_what_is_known_before(tmp_path: Path) -> None:
    text = """
    space: {model.width: {choice: [16, 1024]}, observed.sigma: {uniform: [0.1, 0.5], step: 0.1}}
    base: {model.kind: mlp}
    search: {trials: 20, constraints: {memorization: 0.2, parameters: 1e5, device_seconds: 50}}
    """
    sweep = sweep_of(tmp_path, textwrap.dedent(text))
    searcher = SweepSearcher(sweep, tmp_path / "j")
    given = []
    for name in ("b", *(f"s{i}" for i in range(20))):
        suggestion = searcher.suggest(name)
        if suggestion == Searcher.FINISHED:
            break
        given.append(suggestion["values"])
        searcher.on_trial_result(name, at(0.5, 3.0, 0.1, device_seconds=60))
        searcher.on_trial_complete(name, full(2.0, 0.3, device_seconds=25))
    assert sorted(values["observed.sigma"] for values in given[1:]) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert {values["model.width"] for values in given[1:]} == {16}
    assert searcher.finished
    trials = study_of(tmp_path / "j").trials
    halves = [t.constraints for t in trials if "observation_of" in t.user_attrs]
    ends = [t.constraints for t in trials if "trial_id" in t.user_attrs]
    assert halves == [pytest.approx({"memorization": -0.5, "device_seconds": 0.2})] * 5
    assert ends == [pytest.approx({"memorization": 0.5, "device_seconds": -0.5})] * 5
    refused = [t for t in trials if "why" in t.user_attrs]
    assert {(t.state, t.params["model.width"]) for t in refused} == {(TrialState.FAIL, 1024)}
    assert all(t.constraints["parameters"] > 0 and "exceed search.constraints" in t.user_attrs["why"] for t in refused)
    again = SweepSearcher(
        sweep, tmp_path / "j", outcomes={f"s{i}": Outcome(True) for i in range(5)} | {"b": Outcome(True)}
    )
    assert again.finished


def test_replicates_repeat_a_config_with_seeds_of_their_own(tmp_path: Path) -> None:
    sweep, journal = sweep_of(tmp_path, BARE, search__trials=2, search__replicates=3), tmp_path / "j"
    first = SweepSearcher(sweep, journal)
    given = {name: first.suggest(name) for name in ("b", "s0", "r1")}
    assert given["r1"] == {
        "trial_id": "r1", "role": "replicate", "label": "s0", "values": {**given["s0"]["values"], "seed": 1},
    }  # fmt: skip
    assert sweep.config_for(given["r1"]["values"]).seed == 1
    first.on_trial_complete("s0", full(1.0, 0.5))
    first.on_trial_result("r1", at(0.5, 4.0, 0.5))
    ended = {"b": Outcome(True), "s0": Outcome(True), "r1": Outcome(False)}
    second = SweepSearcher(sweep, journal, outcomes=ended)
    rest = ask_all(second, (f"n{i}" for i in itertools.count()))
    assert [(s["trial_id"], s["role"], s["label"], s["values"].get("seed")) for s in rest.values()] == [
        ("r1", "replicate", "s0", 1), ("n1", "replicate", "s0", 2), ("n2", "search", "", None),
        ("n3", "replicate", "n2", 1), ("n4", "replicate", "n2", 2),
    ]  # fmt: skip
    second.on_trial_complete("n0", full(2.0, 0.25))
    assert observations(journal) == [("r1", 500, 0.5, [4.0, 0.5])]
    replicate = next(t for t in study_of(journal).trials if t.user_attrs.get("trial_id") == "r1")
    assert (replicate.state, replicate.values, replicate.user_attrs["replicate_of"]) == (
        TrialState.COMPLETE,
        [2.0, 0.25],
        "s0",
    )
    everything = ended | {name: Outcome(True) for name in ("r1", "n1", "n2", "n3", "n4")}
    assert SweepSearcher(sweep, journal, outcomes=everything).finished


def test_stages_have_their_say_in_what_comes_next(tmp_path: Path) -> None:
    sweep, all_busy = sweep_of(tmp_path, BARE, search__lookahead=4), False
    searcher = SweepSearcher(
        sweep,
        tmp_path / "j",
        cost=lambda values: int(1000 * values["observed.sigma"]),
        busy=lambda values: all_busy,
    )
    assert searcher.suggest("b")["role"] == "baseline"
    sigma = searcher.suggest("s0")["values"]["observed.sigma"]
    assert searcher._candidates is not None
    held = [candidate.values["observed.sigma"] for candidate in searcher._candidates._held]
    assert len(held) == 3
    assert sigma < min(held)
    all_busy = True
    assert searcher.suggest("s1") is None  # what they share is being trained: Tune asks again
    searcher.on_trial_complete("s0", full(1.0, 0.5))
    assert searcher.suggest("s1")["role"] == "search"  # nothing runs, so waiting is of no use
    assert len(study_of(tmp_path / "j").trials) == 2  # candidates leave no trace


def test_a_slow_sampler_never_holds_up_tune(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BARE, search__sampler="gp", search__startup_trials=2, search__trials=5)
    with contextlib.closing(SweepSearcher(sweep, tmp_path / "j")) as searcher:
        searcher.suggest("b")
        names = (f"s{i}" for i in range(5))
        name = next(names)
        for _ in range(12_000):
            suggestion = searcher.suggest(name)
            if suggestion is None:
                time.sleep(0.02)
            elif suggestion == Searcher.FINISHED:
                break
            else:
                searcher.on_trial_result(name, at(0.5, 3.0, 0.1))
                searcher.on_trial_complete(name, full(2.0, suggestion["values"]["observed.sigma"]))
                name = next(names, "end")
        assert suggestion == Searcher.FINISHED
        assert isinstance(searcher._source, Elsewhere)
    assert len([t for t in study_of(tmp_path / "j").trials if "trial_id" in t.user_attrs]) == 5


def test_no_config_is_trained_twice_after_its_conditions(tmp_path: Path, ids: Iterator[str]) -> None:
    text = """
    space:
      objective.kind: {choice: [ambient, ambient_consistency]}
      consistency.weight: {loguniform: [0.1, 3], when: {objective.kind: ambient_consistency}}
    search: {trials: 12, sampler: random}
    """
    given = ask_all(SweepSearcher(sweep_of(tmp_path, textwrap.dedent(text)), tmp_path / "j"), ids)
    values = [tuple(s["values"].items()) for s in given.values() if s["role"] == "search"]
    assert len(set(values)) == len(values) == 12
    assert values.count((("objective.kind", "ambient"),)) == 1
    params = [t.params for t in study_of(tmp_path / "j").trials]
    assert {len(p) for p in params} == {2, 3}  # with the length


# -- what is shared, and what may be trained --------------------------------------------------------------------------

REPLICATED = """
base: {training: {images: 6400, batch_size: 64}}
space: {observed.sigma: {choice: [0.1, 0.2]}}
baseline: {seeds: [0]}
search: {trials: 2, replicates: 2, stopping: {rule: none}, sampler: random}
"""


def test_every_trial_is_known_to_be_trained_as_soon_as_it_is_handed_out(tmp_path: Path) -> None:
    begun: dict[str, Any] = {}
    sweep = sweep_of(tmp_path, REAL)
    searcher = SweepSearcher(sweep, tmp_path / "j", begun=begun.__setitem__)
    given = ask_all(searcher, (f"tune{i}" for i in itertools.count()))
    assert begun == {trial_id: suggestion["values"] for trial_id, suggestion in given.items()}


def test_trials_that_are_asked_for_at_once_share_what_they_have_in_common(tmp_path: Path) -> None:
    """Tune asks for many trials before it starts the first: none may be one that shares what another is to train."""
    sweep = sweep_of(
        tmp_path,
        """
base: {training: {images: 6400, batch_size: 64}, evaluation: {lengths: [0.5, 1.0]}}
space: {observed.sigma: {choice: [0.1, 0.2]}, consistency.weight: {choice: [0.5, 1.0, 2.0, 4.0]}}
search: {trials: 8, sampler: random}
""",
    )
    prefixes = Planner(sweep.config_for)
    hooks = {"cost": prefixes.cost, "busy": prefixes.busy, "begun": prefixes.started}
    searcher = SweepSearcher(sweep, tmp_path / "j", concurrent=8, **hooks)
    given = [searcher.suggest(f"t{n}") for n in range(10)]
    asked = [suggestion["values"] for suggestion in given[1:] if suggestion is not None]
    assert sorted(values["observed.sigma"] for values in asked) == [0.1, 0.2], "one of each noise level"
    for n, suggestion in enumerate(given):
        if suggestion is not None:
            prefixes.reached(f"t{n}", 3200)
    assert searcher.suggest("later") is not None, "what they share is stored"


def test_replicates_wait_for_what_is_being_trained(tmp_path: Path) -> None:
    taken: set[int] = {1}
    searcher = SweepSearcher(
        sweep_of(tmp_path, REPLICATED),
        tmp_path / "j",
        busy=lambda values: values.get("seed") in taken,
        cost=lambda v: 1,
    )
    given = [searcher.suggest(f"t{n}") for n in range(5)]
    assert [s and s["role"] for s in given] == ["baseline", "search", "search", None, None]
    taken.clear()
    later = [searcher.suggest(f"u{n}") for n in range(3)]
    assert [s if isinstance(s, str) else s["role"] for s in later] == ["replicate", "replicate", Searcher.FINISHED]


def report(executed: int, *, full: bool = False) -> dict[str, Any]:
    return {
        "fidelity": 1.0, "memorization": 0.1, "images": 3200, "fraction": 0.5, "evaluated": not full, "failed": None,
        "done_full_length": full, "images_executed": executed,
    }  # fmt: skip


def test_a_search_ends_with_its_budget(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, REPLICATED, search__images=9000, search__stopping__rule="rungs")
    budget = Budget(sweep.search.images)
    searcher = SweepSearcher(sweep, tmp_path / "j", budget=budget)
    assert [searcher.suggest(f"t{n}")["role"] for n in range(2)] == ["baseline", "search"]
    searcher.on_trial_result("t0", report(50_000))
    searcher.on_trial_result("t1", report(3200))
    assert budget.executed == 3200, "the baseline is not searched"
    assert searcher.suggest("t2")["role"] == "replicate"
    searcher.on_trial_complete("t1", report(6400, full=True))
    assert not searcher.finished
    searcher.on_trial_result("t2", report(2600))
    assert searcher.suggest("t3") == Searcher.FINISHED
    assert searcher.finished, "though a config and a replicate are left"
    searcher.close()
    resumed = SweepSearcher(sweep, tmp_path / "j", budget=Budget(9000, {"t1": 6400}))
    assert not resumed.finished
    assert resumed.suggest("v0")["trial_id"] == "t0"
    resumed.close()


def test_what_a_failed_trial_trained_is_spent(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, REPLICATED, search__images=9000)
    budget = Budget(sweep.search.images)
    searcher = SweepSearcher(sweep, tmp_path / "j", budget=budget)
    for n in range(2):
        searcher.suggest(f"t{n}")
    searcher.on_trial_complete("t1", report(3000) | {"evaluated": False, "failed": "diverged"})
    assert budget.executed == 3000


def test_trials_that_run_to_their_ends_are_not_begun_beyond_the_budget(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, REPLICATED, search__images=10_000)
    searcher = SweepSearcher(sweep, tmp_path / "j", budget=Budget(sweep.search.images, whole=True))
    given = [searcher.suggest(f"t{n}") for n in range(4)]
    assert [s if isinstance(s, str) else s["role"] for s in given] == [
        "baseline", "search", "replicate", Searcher.FINISHED,
    ]  # fmt: skip
