"""Real processes over gloo: several workers train what one trains, and their states fit any number of workers.

Two processes go through all scenarios one after another, each on one thread; this process trains the same alone.
"""

from contextlib import closing

import pytest
import torch
import torch.multiprocessing as mp
from gloo import gloo_group
from safetensors.torch import load_file, save_file
from small_runs import BASE, CONDITIONAL, UNET, new_state, observations, pictures, run

from ambient_sweep.config import build_config
from ambient_sweep.training import loop
from ambient_sweep.training.group import Group
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import read_state, restore_newest, save_newest

WORKERS = 2
IMAGES, HALF = 960, 480  # 60 steps
RARE = {"consistency.batch_share": 0.1}  # most shares have no image with chains
POWER = {"ema.kind": "power", "ema.tracked": [0.05, 0.1], "ema.length": 0.05}
DISTILLED = {"objective.kind": "ambient_distilled", "distillation.start": 0.5}
DISTILLED_RUN = "unet, labels, distilled"
SCENARIOS = {
    "mlp": (BASE, {}),
    "mlp, rare consistency, power averages": (BASE, RARE | POWER),
    "unet, labels": (UNET, CONDITIONAL | {"training.images": 240}),
    DISTILLED_RUN: (UNET, CONDITIONAL | DISTILLED | {"training.images": 240, "distillation.ratio": 2}),
}


def scenario(name, workers=1):
    base, changes = SCENARIOS[name]
    length = {"training.images": IMAGES, "training.records": 4, "compute.accumulate": workers}
    config = build_config(base, length, changes, {"resources.workers": workers})
    return config, (observations() if base is BASE else pictures(32, clean_share=0.25))


def worker(rank, folder):
    torch.set_num_threads(1)
    with gloo_group(folder, rank) as group:
        assert group == Group(rank, WORKERS)
        for name in SCENARIOS:
            trained_together(name, group, folder)
        going_on(group, folder)
        distilled_again(group, folder)
        reductions(group)
        told_to_stop(group, folder)


def trained_together(name, group, folder):
    config, observed = scenario(name, WORKERS)
    state = new_state(config, observed, group=group)
    _, records = run(config, observed, state)
    state.save(folder / name)
    average = state.average.state_dict()  # whole, on every worker
    numbers = torch.tensor([[r.loss, r.consistency, r.gradient_norm] for r in records], dtype=torch.float64)
    save_file(average | {"records": numbers}, folder / f"{name} {group.rank}")


def going_on(group, folder):
    """From the state that one worker saved half way; and the other way round."""
    config, observed = scenario("mlp", WORKERS)
    state = new_state(config, observed, group=group)
    restore_newest(folder / "one", state, print)
    assert state.images == HALF
    run(config, observed, state)
    state.save(folder / "went on")
    half = new_state(config, observed, group=group)
    with closing(train(config, observed, half, stops=frozenset({HALF}))) as records:
        next(record for record in records if record.images == HALF)
    save_newest(folder / "half", half)


def distilled_again(group, folder):
    """A distilled run that is cut off a few steps after its start."""
    config, observed = scenario(DISTILLED_RUN, WORKERS)
    first = new_state(config, observed, group=group)
    with closing(train(config, observed, first, stops=frozenset({160}))) as records:
        next(record for record in records if record.images == 160)
    first.save(folder / "distilled half")
    group.broadcast(None)
    second = new_state(config, observed, group=group)
    second.restore(folder / "distilled half", *read_state(folder / "distilled half"))
    run(config, observed, second)
    second.save(folder / "distilled again")


def reductions(group):
    values = torch.tensor([1.0, group.rank], dtype=torch.float64)
    assert group.sum(values.clone()).tolist() == [2, 1]
    assert group.max(values.clone()).tolist() == [1, 1]
    rows = torch.arange(5.0)[list(group.share(5))]
    assert torch.equal(group.gather(rows), torch.arange(5.0))
    assert group.broadcast(f"from {group.rank}") == "from 0"


def told_to_stop(group, folder):
    """One worker alone is asked to stop: all end at the same step, soon after."""
    loop.AGREE_SECONDS = 0.0  # at every step
    config, observed = scenario("mlp", WORKERS)
    state = new_state(config, observed, group=group)
    records = list(train(config, observed, state, interrupted=lambda: group.rank == 1 and state.images >= 160))
    assert records[-1].images == state.images == 160
    (folder / f"stopped {group.rank}").write_text(str(state.images))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    config, observed = scenario("mlp")
    state = new_state(config, observed)
    with closing(train(config, observed, state, stops=frozenset({HALF}))) as records:
        next(record for record in records if record.images == HALF)
    save_newest(folder / "one", state)
    mp.spawn(worker, (folder,), nprocs=WORKERS)
    return folder


_alone = {}


def alone(name):
    if name not in _alone:
        config, observed = scenario(name)
        _alone[name] = run(config, observed)
    return _alone[name]


def apart(tensors, others):
    """|| a - b || / || b || over all tensors of the same names."""
    a, b = (torch.cat([t[name].flatten() for name in sorted(others)]) for t in (tensors, others))
    return float((a - b).norm() / b.norm())


def part(tensors, prefix):
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_workers_train_what_one_trains(folder, name):
    """In float32, in two parts each: all within 1e-5 of one worker that takes the batch as a whole."""
    state, records = alone(name)
    tensors, meta = read_state(folder / name)
    mine = state.tensors()
    assert meta["images"] == state.images
    assert tensors.keys() == mine.keys()
    for prefix in (
        "model.",
        "average.",
        "optimizer.exp_avg_sq.",
        *(("fake.", "teacher.") if state.distillation else ()),
    ):
        assert apart(part(tensors, prefix), part(mine, prefix)) < 1e-5
    assert all(torch.equal(tensors[name], mine[name]) for name in part(mine, "optimizer.step."))
    for rank in range(WORKERS):
        saved = load_file(folder / f"{name} {rank}")
        numbers = saved.pop("records")
        expected = torch.tensor([[r.loss, r.consistency, r.gradient_norm] for r in records], dtype=torch.float64)
        torch.testing.assert_close(numbers, expected, rtol=1e-4, atol=1e-6)
        assert apart(saved, state.average.state_dict()) < 1e-5


def test_a_distilled_run_of_two_workers_resumes_to_the_bit(folder):
    tensors, again = read_state(folder / DISTILLED_RUN)[0], read_state(folder / "distilled again")[0]
    assert tensors.keys() == again.keys()
    assert {"teacher", "fake", "fake_optimizer"} < {name.partition(".")[0] for name in tensors}
    assert [name for name in tensors if not torch.equal(tensors[name], again[name])] == []


def test_a_state_fits_any_number_of_workers(folder):
    state, _ = alone("mlp")
    went_on, _ = read_state(folder / "went on")
    assert apart(part(went_on, "model."), part(state.tensors(), "model.")) < 1e-5
    config, observed = scenario("mlp")
    back = new_state(config, observed)
    assert restore_newest(folder / "half", back, print) == "images-000000480"
    run(config, observed, back)
    assert apart(part(back.tensors(), "model."), part(state.tensors(), "model.")) < 1e-5


def test_all_workers_stop_at_the_same_step(folder):
    assert [(folder / f"stopped {rank}").read_text() for rank in range(WORKERS)] == ["160", "160"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_contiguous_and_differ_by_at_most_one(size):
    shares = [list(Group(rank, size).share(20)) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(20))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
