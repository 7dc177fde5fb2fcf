"""Hosts of small trials, called as their actors would be; and the decision for packs."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import small_sweep

from ambient_sweep.config import Config, build_config, dump
from ambient_sweep.errors import UserError
from ambient_sweep.results.records import read_trial
from ambient_sweep.sweep import packing as packing_module
from ambient_sweep.sweep.cluster import StopRequest
from ambient_sweep.sweep.distributions import read_distribution
from ambient_sweep.sweep.packing import FILE, Packing, decide
from ambient_sweep.sweep.packs import Host
from ambient_sweep.sweep.resources import Node, Plan, preflight
from ambient_sweep.sweep.space import SWEEP_FILE, Sweep, load_sweep, write_sweep
from ambient_sweep.trial import Interrupted, prepare

SMALL = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": 1600, "batch_size": 32, "records": 10},
    "evaluation": {"samples": 16, "lengths": [0.5, 1.0], "batch_size": 16, "extras": []},
    "sampling.steps": 3,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    prepare(build_config(SMALL), tmp_path)
    return tmp_path


def host_in(root: Path, **base: Any) -> Host:
    space = {"observed.sigma": read_distribution({"uniform": [0.1, 0.5]}, "space")}
    write_sweep(Sweep("small", dump(build_config(SMALL, base)), space), root / SWEEP_FILE)
    return Host(root)


def suggestion(trial_id: str, **values: Any) -> dict[str, Any]:
    return {"trial_id": trial_id, "role": "search", "label": "", "values": values}


def images(reported: dict[str, Any] | None) -> int:
    """Of a report of an evaluation; -1 for the last report."""
    assert reported is not None
    return int(reported["images"]) if reported["evaluated"] else -1


def wait_until_empty(host: Host) -> None:
    end = time.monotonic() + 30
    while host.load():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_trials_of_a_host_go_on_call_by_call(root: Path) -> None:
    host, told = host_in(root), dict[str, list[int]]()

    def drive(trial_id: str, seed: int) -> None:
        mine = told.setdefault(trial_id, [])
        while (reported := host.advance("first", suggestion(trial_id, seed=seed))) is not None:
            mine.append(images(reported))

    threads = [threading.Thread(target=drive, args=(f"t{n}", n)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert told == {f"t{n}": [800, 1600, -1] for n in range(3)}
    assert {read_trial(root, f"t{n}").status for n in range(3)} == {"completed"}
    assert host.load() == 0


def test_a_trial_that_leaves_goes_on_in_another_host(root: Path) -> None:
    first, second, trial = host_in(root), host_in(root), suggestion("t")
    assert images(first.advance("first", trial)) == 800
    assert read_trial(root, "t").images_done == 800
    first.leave("t")
    first.leave("t")  # which is nothing new
    first.leave("unknown")
    assert images(second.advance("second", trial)) == 1600  # once the first has let go of the folder
    assert images(second.advance("second", trial)) == -1
    assert second.advance("second", trial) is None
    record = read_trial(root, "t")
    assert (record.status, record.images_executed) == ("completed", 1600)
    wait_until_empty(first)


def test_a_trial_whose_process_died_begins_again_where_it_was(root: Path) -> None:
    host, trial = host_in(root), suggestion("t")
    assert images(host.advance("first", trial)) == 800
    assert images(host.advance("second", trial)) == 1600  # of the same host, which was told nothing
    assert images(host.advance("second", trial)) == -1
    assert host.advance("second", trial) is None
    assert read_trial(root, "t").images_executed == 1600
    wait_until_empty(host)


def test_a_trial_that_trains_is_made_to_leave(root: Path) -> None:
    """Its process died in the middle of a call: it saves and lets go of its folder."""
    host, raised = host_in(root, **{"training.images": 32_000_000, "training.records": 100_000}), list[BaseException]()

    def call() -> None:
        try:
            host.advance("first", suggestion("t"))
        except Interrupted as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not (root / "trials" / "t" / "trial.json").exists():
        time.sleep(0.01)
    host.leave("t")
    thread.join(30)
    assert not thread.is_alive()
    assert len(raised) == 1
    assert host.load() == 0
    record = read_trial(root, "t")
    assert (record.status, 0 < record.images_done < 32_000_000) == ("stopped", True)
    assert list((root / "trials" / "t" / "state").iterdir())


def test_a_trial_that_cannot_succeed_reports_why(root: Path) -> None:
    wild = {
        "optimizer.lr": 1.0,
        "optimizer.weight_decay": 10.0,
        "optimizer.schedule": "constant",
        "optimizer.warmup": 0,
    }
    host, trial = host_in(root), suggestion("t", **wild)
    reported = host.advance("first", trial)
    assert reported is not None
    assert "finite" in reported["failed"]
    assert reported["images_executed"] == read_trial(root, "t").images_executed > 0, "they count for search.images"
    assert host.advance("first", trial) is None
    assert read_trial(root, "t").status == "failed"
    assert host.load() == 0


def test_any_other_error_reaches_the_process_of_the_trial(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("ambient_sweep.trial.run_trial", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        host_in(root).advance("first", suggestion("t"))


def test_the_process_of_a_trial_needs_no_torch() -> None:
    code = "import sys, ambient_sweep.sweep.packs; print({'torch', 'optuna', 'pandas'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() in ("set()", "{'pandas'}")  # Tune itself imports pandas


# -- whether packs are used -------------------------------------------------------------------------------------------


def plan_of(sweep: Sweep, root: Path, cpus: float = 2) -> Plan:
    """On a disk that holds any of these sweeps, which the disk that tests run on need not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**50))
        return preflight(sweep, [Node(cpus, 0)], root)


def raced(monkeypatch: pytest.MonkeyPatch, gain: float) -> list[tuple[list[Config], int]]:
    calls: list[tuple[list[Config], int]] = []

    def race(configs: list[Config], count: int, stop: StopRequest) -> float:
        calls.append((configs, count))
        return gain

    monkeypatch.setattr(packing_module, "_race", race)
    return calls


def test_a_race_decides_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = raced(monkeypatch, 1.72)
    sweep = small_sweep(tmp_path, search__trials=100)
    packing = decide(sweep, plan_of(sweep, tmp_path), tmp_path, StopRequest())
    assert (packing.size, packing.gain, calls[0][1]) == (8, 1.72, 8)
    assert packing.lines() == ["packing: 8 trials in one process train 1.72 times as fast as one by one; used"]
    assert (packing.hosts(2, None), packing.concurrent(2, None)) == (2, 16)
    assert decide(sweep, plan_of(sweep, tmp_path), tmp_path, StopRequest()) == packing
    assert len(calls) == 1
    for damaged in ("{", "[]", '{"size": "8"}', '{"size": 0}', '{"sizes": 8}'):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(UserError, match=rf"^{tmp_path / FILE}: cannot be read .*; remove it"):
            decide(sweep, plan_of(sweep, tmp_path), tmp_path, StopRequest())


def test_what_gains_too_little_is_told_and_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raced(monkeypatch, 1.2)
    sweep = small_sweep(tmp_path, search__trials=24)
    packing = decide(sweep, plan_of(sweep, tmp_path), tmp_path, StopRequest())
    assert packing.size == 1
    assert packing.lines() == [
        "packing: 2 trials in one process train 1.20 times as fast as one by one; not used, which it is from 1.5 on"
    ]
    assert packing.hosts(2, None) == 0


@pytest.mark.parametrize(
    ("overrides", "cpus"),
    [
        ({"search__trials": 23}, 2),  # too few
        ({"search__trials": 100}, 16),  # the cluster holds many
        ({"search__max_concurrent": 3}, 2),
        ({"model__width": 1024}, 2),  # too large
        ({"compute__precision": "bf16"}, 2),
        ({"resources__workers": 2}, 2),
        ({"search__constraints": {"memory_gib": 4}}, 2),
    ],
)
def test_no_race_where_packs_cannot_be_or_would_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any], cpus: float
) -> None:
    calls = raced(monkeypatch, 9.0)
    sweep = small_sweep(tmp_path, **({"search__trials": 100} | overrides))
    assert decide(sweep, plan_of(sweep, tmp_path, cpus), tmp_path, StopRequest()) == Packing()
    assert not calls
    assert not (tmp_path / FILE).exists()


def test_sizes_that_are_searched_share_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = raced(monkeypatch, 1.6)
    small_sweep(tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text(file.read_text().replace("space:", "space:\n  model.width: {choice: [16, 32]}"))
    sweep = load_sweep(file, {"search.trials": 100})
    assert decide(sweep, plan_of(sweep, tmp_path), tmp_path, StopRequest()).size == 8
    assert [config.model.width for config in calls[0][0]] == [16, 32]
    assert calls[0][1] == 4


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"compute__precision": "bf16"}, "search.pack: 4, but compute.precision: bf16 cannot be trained in a pack"),
        ({"resources__workers": 2}, "search.pack: 4, but resources.workers: 2 cannot be trained in a pack"),
        (
            {"search__constraints": {"memory_gib": 4}},
            "search.pack: 4, but search.constraints.memory_gib needs a process",
        ),
    ],
)
def test_packs_that_are_asked_for_and_cannot_be_are_refused(
    tmp_path: Path, overrides: dict[str, Any], line: str
) -> None:
    sweep = small_sweep(tmp_path, search__pack=4, **overrides)
    with pytest.raises(UserError, match=f"^{line}"):
        decide(sweep, plan_of(sweep, tmp_path), tmp_path, StopRequest())


def test_packs_keep_to_the_limit_of_trials_at_once() -> None:
    assert (Packing(4).hosts(8, 10), Packing(4).concurrent(8, 10)) == (2, 8)
    assert (Packing(4).hosts(8, 2), Packing(4).concurrent(8, 2)) == (1, 2)
    assert Packing(4).lines() == ["packing: 4 trials train together in a process (search.pack)"]
