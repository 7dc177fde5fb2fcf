"""Real sweeps on a real Ray, all in one Ray instance: one worker per trial, two, killed, diverged, stopped."""

import json
import os
import re
import signal
import threading
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
import ray
import torch
from hparams_tab import tab
from optuna.trial import TrialState
from processes import session_of, wait_until
from ray.util.placement_group import placement_group, remove_placement_group
from safetensors.torch import load_file
from small_sweeps import searched_trials, small_sweep, study_of

from ambient_sweep.config import ResourcesConfig, build_config, dump, load_config
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep.forecast import Forecast
from ambient_sweep.sweep.run import resume_sweep, run_sweep
from ambient_sweep.sweep.running import faults, progress, session
from ambient_sweep.sweep.running.callback import SweepCallback
from ambient_sweep.sweep.running.cluster import on_cluster, quiet_tune
from ambient_sweep.sweep.running.faults import Restarts
from ambient_sweep.sweep.running.session import open_search
from ambient_sweep.sweep.running.signals import Stopped, StopRequest
from ambient_sweep.sweep.running.tuning import TuneSearcher, run_tune
from ambient_sweep.sweep.space.file import load_sweep, write_sweep
from ambient_sweep.sweep.stopping.rungs import Decision
from ambient_sweep.terminal import Screen
from ambient_sweep.trial.records import read_evaluations, read_trial, read_trials
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare

DYING = ("ray::ImplicitFunc", "ray::TrainController", "ray::PlacementGroupCleaner")

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("ray_head")]


def weights(root: Path, trial_id: str) -> dict[str, torch.Tensor]:
    newest = max((root / "trials" / trial_id / "checkpoints").iterdir())
    return load_file(newest / "model.safetensors")


def test_a_sweep_from_its_file_to_its_report(tmp_path: Path) -> None:
    """Search, baseline, a control, and a control that diverges: the last is recorded and the sweep goes on."""
    controls = """
    controls:
      - {label: plain, set: {objective.kind: ambient}}
      - {label: wild, set: {optimizer: {lr: 1, weight_decay: 10, schedule: constant, warmup: 0}}}
    """
    sweep = small_sweep(tmp_path, controls, search__keep="all")
    lines: list[str] = []
    summary = run_sweep(sweep, tmp_path / "runs", echo=lines.append)
    root = tmp_path / "runs" / "small"
    assert summary.root == root
    assert summary.counts == {"completed": 4, "failed": 1}

    trials = {trial.trial_id: trial for trial in read_trials(root)}
    assert sorted(t.role for t in trials.values()) == ["baseline", "control", "control", "search", "search"]
    (failed,) = [t for t in trials.values() if t.status == "failed"]
    assert failed.role == "control"
    assert failed.config["optimizer.weight_decay"] == 10
    assert "finite" in str(failed.reason)

    table = pd.read_parquet(root / "evaluations.parquet")
    assert len(table) == 3 * 2 * 2 + 4 + 0  # noisy: two lengths, two endpoints; clean: four and one; failed: none
    assert set(pd.read_parquet(root / "trials.parquet")["status"]) == {"completed", "failed"}
    for name in ("frontier.png", "report.html", "best.yaml", "sweep.yaml", "split.json"):
        assert (root / name).stat().st_size > 0
    assert summary.best is not None
    assert load_config(root / "best.yaml").observed.sigma == summary.best["observed.sigma"]
    front = table[table["on_front"]]
    assert sorted(row["fidelity"] for row in summary.frontier) == sorted(front["fidelity"])

    columns, rows = tab(root)
    assert [info.name for info in columns.hparam_infos][:2] == ["consistency.start", "observed.sigma"]
    assert rows.keys() == {f"trials/{name}" for name in trials}
    assert {name for name, row in rows.items() if len(row.metric_values) != 2} == {f"trials/{failed.trial_id}"}

    study = study_of(root)
    assert [t.state for t in searched_trials(study)] == [TrialState.COMPLETE] * 2
    for told in searched_trials(study):
        trial = trials[told.user_attrs["trial_id"]]
        (last,) = [
            e for e in read_evaluations(root)
            if e.trial_id == trial.trial_id and e.main_endpoint and e.images == trial.images_asked
        ]  # fmt: skip
        assert told.values == [last.measures["fd_pixels"].value, last.measures["mem_excess"].value]
        assert trial.config["observed.sigma"] == told.params["observed.sigma"]

    assert "trials: 5 (2 searched, 3 fixed), 2 at once" in lines
    assert sum("50% trained, fd_pixels" in line for line in lines) == 4
    assert sum("FAILED" in line and "wild" in line for line in lines) == 1
    assert (
        "4 of 5 trials done, 0 running, 1 failed; frontier so far at main endpoints (fd_pixels/mem_excess)" in lines[-2]
    )
    line = r"time: \d:\d\d to start, \d:\d\d to search, of which trainings and evaluations filled \d+% of 2 slots"
    assert re.fullmatch(line, lines[-1])
    assert all("\n" not in line for line in lines)

    # A row holds all that is needed to train the model again and get the same numbers.
    again = next(t for t in trials.values() if t.role == "search")
    prepare(build_config(again.config), tmp_path / "again")
    run_trial(build_config(again.config), tmp_path / "again", again.trial_id)
    for name, tensor in weights(tmp_path / "again", again.trial_id).items():
        assert torch.equal(tensor, weights(root, again.trial_id)[name]), name

    before = {path: path.read_bytes() for path in root.glob("trials/*/*.json")}
    lines.clear()
    assert resume_sweep(root, echo=lines.append).counts == summary.counts
    assert "this sweep is finished" in lines[0]
    assert {path: path.read_bytes() for path in root.glob("trials/*/*.json")} == before
    with pytest.raises(UserError, match=r"a run of this name already exists; `ambient-sweep resume "):
        run_sweep(sweep, tmp_path / "runs", echo=lines.append)


def test_a_killed_trial_process_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    noisy = {"observed__base_sigma": 0.05, "search__trials": 1, "training__images": 64_000}
    sweep = small_sweep(tmp_path, **noisy)
    root = tmp_path / "runs" / "small"
    killed: list[int] = []

    def kill_once() -> None:
        wait_until(lambda: list(root.glob("trials/*/state/images-*")))
        (events,) = root.glob("trials/*/events.out.tfevents.*")  # their name holds the writer's process id
        killed.append(int(events.name.split(".")[-2]))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_once)
    thread.start()
    lines: list[str] = []
    summary = run_sweep(sweep, tmp_path / "runs", echo=lines.append)
    thread.join()
    assert killed != [os.getpid()]
    assert summary.counts == {"completed": 1}
    said = "the worker process died (killed, or out of memory); it goes on from its last state (in 1 second)"
    assert sum(said in line for line in lines) == 1
    (trial,) = read_trials(root)
    assert trial.images_done == trial.images_asked == 64_000
    study = study_of(root)
    assert [t.state for t in searched_trials(study)] == [TrialState.COMPLETE]

    prepare(build_config(trial.config), tmp_path / "whole")
    run_trial(build_config(trial.config), tmp_path / "whole", trial.trial_id)
    for name, tensor in weights(tmp_path / "whole", trial.trial_id).items():
        assert torch.equal(tensor, weights(root, trial.trial_id)[name]), name


def test_a_trial_whose_process_always_dies_fails_and_resume_tries_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = {"observed__base_sigma": 0.05, "search__trials": 1, "training__images": 64_000}
    sweep = small_sweep(tmp_path, **noisy)
    monkeypatch.setattr(faults, "back_off", lambda *arguments: None)  # the patience is over
    root = tmp_path / "runs" / "small"

    def kill() -> None:
        wait_until(lambda: list(root.glob("trials/*/state/images-*")))
        (events,) = root.glob("trials/*/events.out.tfevents.*")
        os.kill(int(events.name.split(".")[-2]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(AmbientSweepError, match=r"the only trial failed \(\w+\): worker failed, after 1 attempt: "):
        run_sweep(sweep, tmp_path / "runs", echo=lambda line: None)
    thread.join()
    (trial,) = read_trials(root)
    assert trial.reason == "worker failed, after 1 attempt: the worker process died (killed, or out of memory)"
    summary = resume_sweep(root, echo=lambda line: None)
    assert summary.counts == {"completed": 1}
    assert [t.trial_id for t in read_trials(root)] == [trial.trial_id]
    study = study_of(root)
    assert [t.state for t in searched_trials(study)] == [TrialState.COMPLETE]


def train_runs_on_the_dashboard() -> dict[str, str]:
    url = f"http://{ray.init(ignore_reinit_error=True).dashboard_url}/api/train/v2/runs/v1"
    token = os.environ["RAY_AUTH_TOKEN"]
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return {run["name"]: run["status"] for run in json.load(answer)["train_runs"]}


def test_two_workers_train_what_one_trains(tmp_path: Path) -> None:
    noisy = {"observed__base_sigma": 0.05, "search__trials": 1, "resources__workers": 2}
    lines: list[str] = []
    summary = run_sweep(small_sweep(tmp_path, **noisy), tmp_path / "runs", echo=lines.append)
    assert summary.counts == {"completed": 1}
    assert sum("trained, fd_pixels" in line for line in lines) == 2
    root = tmp_path / "runs" / "small"
    (trial,) = read_trials(root)
    assert train_runs_on_the_dashboard()[f"workers-{trial.trial_id}"] == "FINISHED"
    config = build_config(trial.config, {"resources.workers": 1})
    prepare(config, tmp_path / "one")
    run_trial(config, tmp_path / "one", trial.trial_id)
    for name, tensor in weights(tmp_path / "one", trial.trial_id).items():
        torch.testing.assert_close(weights(root, trial.trial_id)[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert dump(build_config(trial.config))["resources.workers"] == 2


def test_a_stopped_trial_of_two_workers_gives_its_slots_back(tmp_path: Path) -> None:
    noisy = {"observed__base_sigma": 0.05, "search__trials": 1, "resources__workers": 2, "training__images": 640_000}
    sweep = small_sweep(tmp_path, evaluation__lengths=[0.05, 1.0], **noisy)
    config = sweep.some_config()
    prepare(config, tmp_path)
    search = open_search(sweep, tmp_path)
    search.evaluated = lambda trial_id, report: Decision.STOP  # type: ignore[method-assign]
    wait_until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    quiet_tune()
    told = progress.Progress(tmp_path, ("fd", "mem"), Screen(print), Forecast(0, 0, 1))
    stop, restarts = StopRequest(), Restarts(tmp_path, sweep.search)
    write_sweep(sweep, tmp_path / "sweep.yaml")
    callback = SweepCallback(sweep, tmp_path, search, told, stop, restarts)
    run_tune(sweep, tmp_path, TuneSearcher(search, restarts, lambda: 1, stop), search, [callback])
    (trial,) = read_trials(tmp_path)
    assert 0 < trial.images_done < trial.images_asked
    wait_until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    study = study_of(tmp_path)
    assert [t.state for t in searched_trials(study)] == [TrialState.PRUNED]
    done = read_trial(tmp_path, trial.trial_id).images_done
    time.sleep(2)
    assert read_trial(tmp_path, trial.trial_id).images_done == done  # nobody trains on


def test_what_died_with_its_cleaner_holds_no_slots(tmp_path: Path) -> None:
    """As where a node is lost: the trial's process, Ray Train's controller and the cleaner of its workers' slots at once."""
    noisy = {"observed__base_sigma": 0.05, "search__trials": 1, "resources__workers": 2, "training__images": 64_000}
    root, killed = tmp_path / "runs" / "small", list[str]()

    def kill() -> None:
        wait_until(lambda: list(root.glob("trials/*/state/images-*")))
        for pid in session_of(os.getsid(0)):
            name = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            if name.startswith(DYING):
                killed.append(name)
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    lines: list[str] = []
    summary = run_sweep(small_sweep(tmp_path, **noisy), tmp_path / "runs", echo=lines.append)
    thread.join()
    assert {name.split("\0")[0].split(".")[0] for name in killed} == set(DYING)
    assert summary.counts == {"completed": 1}
    assert sum("it goes on from its last state (in 1 second)" in line for line in lines) == 1
    wait_until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


def test_a_diverged_trial_of_two_workers_is_not_tried_again(tmp_path: Path) -> None:
    wild = {
        "optimizer__lr": 1,
        "optimizer__weight_decay": 10,
        "optimizer__schedule": "constant",
        "optimizer__warmup": 0,
    }
    noisy = {"observed__base_sigma": 0.05, "search__trials": 1, "resources__workers": 2}
    with pytest.raises(AmbientSweepError, match=r"the only trial failed \(\w+\): .*finite"):
        run_sweep(small_sweep(tmp_path, **wild, **noisy), tmp_path / "runs", echo=lambda line: None)
    study = study_of(tmp_path / "runs" / "small")
    assert [t.state for t in searched_trials(study)] == [TrialState.FAIL]


def test_cpus_that_another_job_took_are_waited_for_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "wait_for_room", lambda *arguments: None)  # they were free a moment ago
    monkeypatch.setattr(progress, "PENDING_SECONDS", 1.0)
    cpus = int(ray.cluster_resources()["CPU"])
    other = placement_group([{"CPU": 1}] * cpus)
    ray.get(other.ready())
    lines: list[str] = []

    def echo(line: str) -> None:
        lines.append(line)
        if "waiting for room" in line:
            remove_placement_group(other)

    noisy = {"observed__base_sigma": 0.05, "search__trials": 1}
    assert run_sweep(small_sweep(tmp_path, **noisy), tmp_path / "runs", echo=echo).counts == {"completed": 1}
    said = f"1 trial waiting for room on the cluster: a trial needs 1 of {cpus} CPUs, of which 0 are free"
    assert any(said in line for line in lines), lines


def test_work_whose_process_always_dies_ends_in_order() -> None:
    with pytest.raises(Stopped, match=r"^WorkerCrashedError: The worker died unexpectedly while executing this task"):
        on_cluster(ResourcesConfig(cpus=1), os._exit, [(1,)], StopRequest())


# -- refused before the start ---------------------------------------------------------------------------------------


def test_a_sweep_that_cannot_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    for overrides, complaint in (
        ({"resources__cpus": 4096 // 8}, "a worker needs 512 CPUs, which no node of the cluster has"),
        ({"resources__workers": 64}, "a trial needs 64 workers of 1 CPUs, but the cluster holds"),
    ):
        with pytest.raises(UserError, match=complaint):
            run_sweep(small_sweep(tmp_path, **overrides), tmp_path / "runs", echo=lambda line: None)
        assert list((tmp_path / "runs").iterdir()) == []


def test_bad_images_and_bad_storage_are_told_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    missing = small_sweep(tmp_path, data__source="folder", data__path=str(folder))
    with pytest.raises(UserError, match=str(folder)):
        run_sweep(missing, tmp_path / "runs", echo=lambda line: None)
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"small: cannot be written \(Not a directory\); give another --storage"):
        run_sweep(small_sweep(tmp_path), tmp_path / "file", echo=lambda line: None)
    with pytest.raises(UserError, match=r"small: cannot be written \("):
        run_sweep(small_sweep(tmp_path), Path("/proc/nowhere"), echo=lambda line: None)
    with pytest.raises(UserError, match=r"sweep\.yaml is missing"):
        resume_sweep(tmp_path, echo=lambda line: None)


FOUR_LENGTHS = """
base:
  data: {train_size: 150}
  model: {kind: mlp, width: 32, blocks: 1}
  training: {images: 6400, batch_size: 64, checkpoints: 4, records: 5}
  evaluation: {lengths: [0.25, 0.5, 0.75, 1.0], samples: 64, extras: []}
  sampling.steps: 5
"""
SEARCHED = (
    "name: searched"
    + FOUR_LENGTHS
    + """
space:
  observed.sigma: {choice: [0.1, 0.4]}
  consistency.weight: {choice: [0.3, 1.0]}
  consistency.start: {choice: [0.5, 0.75]}
baseline: {seeds: [0]}
search: {trials: 8, seed: 1}
confirm: {samples: 2x, seeds: 1, top: 2}
"""
)


def test_trials_share_stages_stop_at_rungs_and_are_confirmed(tmp_path: Path) -> None:
    """Every config of a small space: what is shared is trained once, the others stop, the best are trained again."""
    file = tmp_path / "searched.yaml"
    file.write_text(SEARCHED)
    lines: list[str] = []
    summary = run_sweep(load_sweep(file), tmp_path / "runs", echo=lines.append)
    root = summary.root
    trials = {t.trial_id: t for t in read_trials(root)}
    searched = [t for t in trials.values() if t.role == "search"]
    assert len(searched) == len({tuple(sorted((k, str(v)) for k, v in t.config.items())) for t in searched}) == 8
    stopped = [t for t in searched if t.status == "stopped"]
    assert stopped, lines
    assert {t.status for t in searched} == {"stopped", "completed"}
    assert all(str(t.reason).startswith("stopped by search.stopping after") for t in stopped)
    assert all(t.images_done < t.images_asked for t in stopped)
    # Stopped at a rung; the last length is none.
    rungs = {
        f"stopped by search.stopping after {images:,} images": rung for rung, images in enumerate((1600, 3200, 4800))
    }
    assert all(t.rung == rungs.get(str(t.reason), 2) for t in searched)
    assert all(str(t.reason) in rungs for t in stopped)
    assert pd.read_parquet(root / "trials.parquet")["rung"].notna().sum() == len(trials) - 2  # not of the replicates
    forked = [t for t in searched if t.forked_at]
    assert forked, lines
    for trial in forked:
        assert trial.stage is not None
        assert trial.images_executed <= trial.images_done - trial.forked_at // 2
    logical = sum(t.images_done for t in searched)
    assert sum(t.images_executed for t in searched) < 0.8 * logical

    # A forked trial is the trial that nobody shared anything with.
    longest = max(forked, key=lambda t: (t.images_done, t.trial_id))
    config = build_config(longest.config)
    prepare(config, tmp_path / "alone")
    run_trial(config, tmp_path / "alone", longest.trial_id)
    alone = {(e.images, e.endpoint): e for e in read_evaluations(tmp_path / "alone")}
    mine = [e for e in read_evaluations(root) if e.trial_id == longest.trial_id]
    assert {(e.images, e.endpoint) for e in mine} <= set(alone)
    for evaluation in mine:
        assert evaluation.measures == alone[evaluation.images, evaluation.endpoint].measures

    # Every evaluation is an observation, once; stopped trials have no values.
    study = study_of(root, "searched")
    states = {t.user_attrs["trial_id"]: t.state for t in searched_trials(study)}
    assert {states[t.trial_id] for t in stopped} == {TrialState.PRUNED}
    main = [e for e in read_evaluations(root) if e.main_endpoint and e.trial_id in states]
    told = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert sorted(t.values[0] for t in told) == sorted(e.measures["fd_pixels"].value for e in main)
    assert all(t.reason == f"stopped by search.stopping after {t.images_done:,} images" for t in stopped)

    replicates = [t for t in trials.values() if t.role == "replicate"]
    assert replicates
    assert {t.replicate_of for t in replicates} <= set(trials)
    assert all(t.config["seed"] != 0 and t.status == "completed" for t in replicates)
    table = pd.read_parquet(root / "evaluations.parquet")
    again = table[table["evaluation_seed"] != table["evaluation.seed"]]
    assert len(again) > 0
    assert set(again["samples"]) == {128}
    assert set(table.loc[table["on_front"], "evaluation_seed"]) == {2}, "stated by the second set"
    trained = table[(table["role"] == "replicate") & (table["samples"] == 128)]
    assert (trained["runs"] == 1).all(), "a recipe's replicates count without the run that was chosen"
    assert (trained["fidelity_mean"] == trained["fidelity"]).all()

    before = {path: path.read_bytes() for path in root.glob("trials/*/*.json")}
    lines.clear()
    resume_sweep(root, echo=lines.append)
    assert "finished" in lines[0]
    assert {path: path.read_bytes() for path in root.glob("trials/*/*.json")} == before


BUDGETED = (
    "name: budgeted"
    + FOUR_LENGTHS
    + """
space: {observed.sigma: {choice: [0.1, 0.2, 0.3, 0.4]}}
baseline: {seeds: [0]}
search: {images: 19200, seed: 1, max_concurrent: 2}
"""
)


def test_a_search_ends_with_the_images_it_may_train(tmp_path: Path) -> None:
    """Four configs, of which the rungs alone would have paused three: these go on with what is left, up to the budget."""
    file = tmp_path / "budgeted.yaml"
    file.write_text(BUDGETED)
    lines: list[str] = []
    root = run_sweep(load_sweep(file), tmp_path / "runs", echo=lines.append).root
    assert any("of 19,200 images trained" in line for line in lines)
    trials = read_trials(root)
    searched = [t for t in trials if t.role == "search"]
    assert len(searched) == 4
    assert [t.status for t in trials if t.role == "baseline"] == ["completed"]
    executed = sum(t.images_executed for t in searched)
    assert 19_200 <= executed <= 19_200 + 1600, "each of two that train goes on to its next evaluation"
    assert {t.status for t in searched} == {"completed", "stopped"}
    for trial in searched:
        assert trial.images_done == trial.images_executed
        if trial.status == "stopped":
            assert trial.reason == f"stopped by search.images after {trial.images_done:,} images"
    again = resume_sweep(root, echo=lines.append)
    assert any("is finished" in line for line in lines)
    assert {t.trial_id: t.images_done for t in read_trials(again.root)} == {t.trial_id: t.images_done for t in trials}
