"""Real processes over gloo: several workers train what one trains, and their states fit any number of workers.

Two processes go through all scenarios one after another, each on one thread; this process trains the same alone.
"""

import os
from contextlib import closing

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from small_runs import BASE, CONDITIONAL, UNET, new_state, observations, pictures, planted, run

from ambient_sweep.config import build_config
from ambient_sweep.errors import TrainingDiverged
from ambient_sweep.training import loop
from ambient_sweep.training.group import Group
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import read_state
from ambient_sweep.training.state_files import restore_newest, save_newest

WORKERS = 2
IMAGES, HALF = 960, 480  # 60 steps
RARE = {"consistency.batch_share": 0.1}  # most shares have no image with chains
POWER = {"ema.kind": "power", "ema.tracked": [0.05, 0.1], "ema.length": 0.05}
SCENARIOS = {
    "mlp": (BASE, {}),
    "mlp, rare consistency, power averages": (BASE, RARE | POWER),
    "unet, labels": (UNET, CONDITIONAL | {"training.images": 240}),
}
PARALLEL = ("ddp", "fsdp")


def scenario(name, parallel="ddp", workers=1):
    base, changes = SCENARIOS[name]
    if workers > 1 and (base is BASE or parallel == "ddp"):  # with FSDP many small messages, which take long here
        changes = changes | {"compute.accumulate": 2}
    length = {"training.images": IMAGES, "training.records": 4}
    config = build_config(base, length, changes, {"compute.parallel": parallel, "resources.workers": workers})
    return config, (observations() if base is BASE else pictures(32, clean_share=0.25))


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    group = Group.distributed()
    assert group == Group(rank, WORKERS)
    for parallel in PARALLEL:
        for name in SCENARIOS:
            trained_together(name, parallel, group, folder)
        going_on(parallel, group, folder)
    reductions(group)
    gone_back(group, folder)
    told_to_stop(group, folder)
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads abort a process that ends in the ordinary way now and then


def trained_together(name, parallel, group, folder):
    config, observed = scenario(name, parallel, WORKERS)
    state = new_state(config, observed, group=group)
    _, records = run(config, observed, state)
    state.save(folder / parallel / name)
    average = state.average.state_dict()  # whole, on every worker
    numbers = torch.tensor([[r.loss, r.consistency, r.gradient_norm] for r in records], dtype=torch.float64)
    save_file(average | {"records": numbers}, folder / parallel / f"{name} {group.rank}")


def going_on(parallel, group, folder):
    """From the state that one worker saved half way; and the other way round."""
    config, observed = scenario("mlp", parallel, WORKERS)
    state = new_state(config, observed, group=group)
    restore_newest(folder / "one", state, print)
    assert state.images == HALF
    run(config, observed, state)
    state.save(folder / parallel / "went on")
    half = new_state(config, observed, group=group)
    with closing(train(config, observed, half, stops=frozenset({HALF}))) as records:
        next(record for record in records if record.images == HALF)
    save_newest(folder / parallel / "half", half)


def reductions(group):
    values = torch.tensor([1.0, group.rank], dtype=torch.float64)
    assert group.sum(values.clone()).tolist() == [2, 1]
    assert group.max(values.clone()).tolist() == [1, 1]
    rows = torch.arange(5.0)[list(group.share(5))]
    assert torch.equal(group.gather(rows, 5), torch.arange(5.0))
    assert group.broadcast(f"from {group.rank}") == "from 0"


def told_to_stop(group, folder):
    """One worker alone is told: all end at the same step, soon after."""
    loop.AGREE_SECONDS = 0.0  # at every step
    config, observed = scenario("mlp", "ddp", WORKERS)
    state = new_state(config, observed, group=group)
    records = list(train(config, observed, state, interrupted=lambda: group.rank == 1 and state.images >= 160))
    assert records[-1].images == state.images == 160
    (folder / f"stopped {group.rank}").write_text(str(state.images))


def gone_back(group, folder):
    """One worker's share alone gives a loss that is not finite: all see it at the same record, and go back together."""
    config, observed = scenario("mlp", "ddp", WORKERS)
    state = new_state(config, observed, group=group)
    place = folder / "diverged"

    def keep_one():
        for record in train(config, observed, state, stops=frozenset({HALF})):
            if record.images == HALF:
                save_newest(place, state)

    with planted(715):
        with pytest.raises(TrainingDiverged, match="at 720 images"):
            keep_one()
        assert restore_newest(place, state, print) == "images-000000480"
        state.rewinds = 1
        assert [record.images for record in train(config, observed, state)] == [720, 960]
    state.save(folder / "after")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    for parallel in PARALLEL:
        (folder / parallel).mkdir()
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
@pytest.mark.parametrize("parallel", PARALLEL)
def test_two_workers_train_what_one_trains(folder, parallel, name):
    """In float32, in two parts each: all within 1e-5 of one worker that takes the batch as a whole."""
    state, records = alone(name)
    tensors, meta = read_state(folder / parallel / name)
    mine = state.tensors()
    assert meta["images"] == state.images
    assert tensors.keys() == mine.keys()
    for prefix in ("model.", "average.", "optimizer.exp_avg."):
        assert apart(part(tensors, prefix), part(mine, prefix)) < 1e-5
    assert all(torch.equal(tensors[name], mine[name]) for name in part(mine, "optimizer.step."))
    for rank in range(WORKERS):
        saved = load_file(folder / parallel / f"{name} {rank}")
        numbers = saved.pop("records")
        expected = torch.tensor([[r.loss, r.consistency, r.gradient_norm] for r in records], dtype=torch.float64)
        torch.testing.assert_close(numbers, expected, rtol=1e-4, atol=1e-6)
        assert apart(saved, state.average.state_dict()) < 1e-5


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_state_fits_any_number_of_workers(folder, parallel):
    state, _ = alone("mlp")
    went_on, _ = read_state(folder / parallel / "went on")
    assert apart(part(went_on, "model."), part(state.tensors(), "model.")) < 1e-5
    config, observed = scenario("mlp")
    back = new_state(config, observed)
    assert restore_newest(folder / parallel / "half", back, print) == "images-000000480"
    run(config, observed, back)
    assert apart(part(back.tensors(), "model."), part(state.tensors(), "model.")) < 1e-5


def test_workers_that_went_back_together_train_what_one_that_went_back_trains(folder):
    config, observed = scenario("mlp")
    state = new_state(config, observed)
    restore_newest(folder / "one", state, print)
    state.rewinds = 1
    run(config, observed, state)
    after, meta = read_state(folder / "after")
    assert (meta["rewinds"], meta["images"]) == (1, IMAGES)
    assert apart(part(after, "model."), part(state.tensors(), "model.")) < 1e-5
    assert apart(part(after, "model."), part(alone("mlp")[0].tensors(), "model.")) > 1e-3


def test_all_workers_stop_at_the_same_step(folder):
    assert [(folder / f"stopped {rank}").read_text() for rank in range(WORKERS)] == ["160", "160"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_contiguous_and_differ_by_at_most_one(size):
    shares = [list(Group(rank, size).share(20)) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(20))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
