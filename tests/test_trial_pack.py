"""Trials trained in a pack: the same as each by itself, whoever comes, goes, waits, diverges or is told to leave."""

import shutil
import threading
import time
from contextlib import closing

import pytest
from safetensors.torch import load_file

from ambient_sweep.config import build_config
from ambient_sweep.errors import TrainingDiverged
from ambient_sweep.results.records import read_trial, read_trial_evaluations
from ambient_sweep.training import packed as packed_module
from ambient_sweep.training.state import load_model
from ambient_sweep.trial import Interrupted, Stages, prepare, run_trial
from ambient_sweep.trial.pack import Pack

SMALL = {
    "data.train_size": 150,
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": 1600, "batch_size": 32, "records": 10, "checkpoints": 2},
    "evaluation": {"samples": 16, "lengths": [0.2, 0.4, 1.0], "batch_size": 16, "extras": []},
    "sampling.steps": 3,
    "consistency.start": 0.6,
}
CHANGES = {
    "plain": {},
    "noisy": {"observed.sigma": 0.4, "seed": 3, "optimizer.lr": 2e-3},
    "late": {"consistency.start": 0.8, "consistency.weight": 2.0},
    "short": {"training.stop": 0.53},
    "wide": {"model.width": 24},  # of another shape
    "halves": {"compute.accumulate": 2},  # cannot be packed
    "clean": {"objective.kind": "denoising", "observed.sigma": 0.0},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    prepare(build_config(SMALL), root)
    return root


@pytest.fixture
def sweep(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "sweep")


@pytest.fixture
def single(prepared, tmp_path):
    """The folder of the same trials, each trained by itself."""
    return shutil.copytree(prepared, tmp_path / "single")


def together(pack, root, changes, reports=None, **options):
    """Runs a trial for each of `changes` in a thread; gives what each raised."""
    raised = {}

    def one(name):
        try:
            with pack.member() as member:

                def forward(report):
                    if reports is not None:
                        reports(name, member, report)

                config = build_config(SMALL, changes[name])
                run_trial(config, root, name, on_report=forward, trainer=member, **options)
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            raised[name] = error

    threads = [threading.Thread(target=one, args=(name,)) for name in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return raised


def assert_same_trial(root, single, name, tolerance=1e-5):
    """Records as they are; weights within rounding, and so the measures, as far as they do not count."""
    ours, theirs = read_trial(root, name), read_trial(single, name)
    for field in ("status", "reason", "images_done", "images_executed", "images_asked", "config"):
        assert getattr(ours, field) == getattr(theirs, field)
    evaluations = read_trial_evaluations(root, name), read_trial_evaluations(single, name)
    assert [(e.images, e.endpoint) for e in evaluations[0]] == [(e.images, e.endpoint) for e in evaluations[1]]
    for one, other in zip(*evaluations, strict=True):
        assert one.measures["fd_pixels"].value == pytest.approx(other.measures["fd_pixels"].value, rel=1e-3)
    for folder in (single / "trials" / name / "checkpoints").iterdir():
        mine = load_file(root / "trials" / name / "checkpoints" / folder.name / "model.safetensors")
        for key, tensor in load_file(folder / "model.safetensors").items():
            assert (mine[key] - tensor).norm() <= tolerance * tensor.norm() + 1e-7, (name, folder.name, key)


def test_each_trial_is_what_it_is_by_itself(sweep, single):
    began = time.perf_counter()
    assert together(Pack(), sweep, CHANGES) == {}
    seconds = time.perf_counter() - began
    for name, changes in CHANGES.items():
        run_trial(build_config(SMALL, changes), single, name)
        assert_same_trial(sweep, single, name)
    # every second of the process went to one of them at most
    assert 0 < sum(read_trial(sweep, name).device_seconds for name in CHANGES) <= seconds


def test_they_are_trained_together(sweep, monkeypatch):
    sizes = []
    original = packed_module.PackedStates

    def counted(states):
        sizes.append(len(states))
        return original(states)

    monkeypatch.setattr(packed_module, "PackedStates", counted)
    together(Pack(), sweep, {f"t{n}": {"seed": n} for n in range(4)})
    assert max(sizes) == 4


def test_those_that_wait_for_a_decision_hold_nobody_up(sweep, single):
    """One waits, at its first evaluation, until another has come to its end; then it goes on to its own."""
    over = threading.Event()

    def reports(name, member, report):
        if report.evaluation is None or not report.evaluation.main_endpoint:
            return
        if name == "plain" and report.images == 1600:
            over.set()
        if name == "late" and report.images == 320:
            with member.away():
                assert over.wait(60)

    changes = {name: CHANGES[name] for name in ("plain", "late")}
    assert together(Pack(), sweep, changes, reports) == {}
    for name in changes:
        run_trial(build_config(SMALL, changes[name]), single, name)
        assert_same_trial(sweep, single, name)


def test_one_that_leaves_while_it_waits_goes_on_later(sweep, single):
    def reports(name, member, report):
        if name == "late" and report.images == 640 and report.evaluation is not None:
            with member.away():
                raise SystemExit

    pack, changes = Pack(), {name: CHANGES[name] for name in ("plain", "late", "noisy")}
    raised = together(pack, sweep, changes, reports)
    assert raised.keys() == {"late"}
    assert isinstance(raised["late"], SystemExit)
    assert read_trial(sweep, "plain").status == "completed"
    assert read_trial(sweep, "late").images_done == 640
    assert together(pack, sweep, {"late": changes["late"]}) == {}
    for name in changes:
        run_trial(build_config(SMALL, changes[name]), single, name)
        assert_same_trial(sweep, single, name)


def test_one_that_diverges_goes_back_alone(sweep, single):
    wild = {
        "optimizer.lr": 1.0,
        "optimizer.weight_decay": 10.0,
        "optimizer.schedule": "constant",
        "optimizer.warmup": 0,
    }
    rewind = {"training.on_nan": "rewind", "training.rewinds": 1}
    changes = {"plain": {}, "wild": wild | {"training.on_nan": "stop"}, "again": wild | rewind}
    raised = together(Pack(), sweep, changes)
    assert raised.keys() == {"wild", "again"}
    assert all(isinstance(error, TrainingDiverged) for error in raised.values())
    assert "after going back 1 times" in str(raised["again"])
    run_trial(build_config(SMALL), single, "plain")
    assert_same_trial(sweep, single, "plain")


def test_interrupted_trials_save_and_go_on(sweep, single):
    stop = threading.Event()

    def reports(name, member, report):
        if name == "noisy" and report.images >= 800:
            stop.set()

    changes = {name: CHANGES[name] for name in ("plain", "noisy")}
    raised = together(Pack(), sweep, changes, reports, interrupted=stop.is_set)
    assert all(isinstance(raised[name], Interrupted) for name in changes)
    assert together(Pack(), sweep, changes) == {}
    for name in changes:
        run_trial(build_config(SMALL, changes[name]), single, name)
        assert_same_trial(sweep, single, name)


def test_a_failure_of_the_pack_reaches_every_member(sweep, monkeypatch):
    def broken(self, *_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(packed_module.PackedStepper, "step", broken)
    raised = together(Pack(), sweep, {name: CHANGES[name] for name in ("plain", "noisy")})
    assert {str(error) for error in raised.values()} == {"out of memory"}
    assert raised.keys() == {"plain", "noisy"}


def test_packed_trials_share_stages(sweep, single):
    """Three of one beginning: each state is trained at least once, and taken over where it is there."""
    changes = {"first": {}, "second": {"consistency.weight": 3.0}, "third": {"consistency.weight": 0.2}}
    pack = Pack()
    assert together(pack, sweep, {"first": {}}, stages=Stages(sweep)) == {}
    assert together(pack, sweep, {n: changes[n] for n in ("second", "third")}, stages=Stages(sweep)) == {}
    for name in ("second", "third"):
        record = read_trial(sweep, name)
        assert (record.forked_at, record.images_executed) == (960, 640)
        run_trial(build_config(SMALL, changes[name]), single, name)
        ours, theirs = (
            load_model(root / "trials" / name / "checkpoints" / "images-000001600") for root in (sweep, single)
        )
        for one, other in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
            assert (one - other).norm() <= 1e-5 * other.norm()


def test_a_closed_generator_leaves_the_state_to_its_owner(sweep):
    from ambient_sweep.data.observed import observe
    from ambient_sweep.training.state import TrainState
    from ambient_sweep.trial import cached_data

    config = build_config(SMALL)
    data = cached_data(config.data)
    state = TrainState.create(config, data.shape, "cpu", 0)
    with Pack().member() as member:
        with closing(member.train(config, observe(data, config.observed, False), state)) as records:
            assert next(records).images == 160
        assert list(member.train(config, observe(data, config.observed, False), state))[-1].images == 1600
        assert list(member.train(config, observe(data, config.observed, False), state)) == []
