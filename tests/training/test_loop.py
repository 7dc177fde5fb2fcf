"""The loop: exact resume, the same numbers for any number of workers, and losses that learn what they claim."""

import math
import threading

import pytest
import torch
from closed_forms import two_modes

from ambient_sweep.config import build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.errors import TrainingDiverged, UserError
from ambient_sweep.training.group import Group
from ambient_sweep.training.loop import train
from ambient_sweep.training.objective import takes_part
from ambient_sweep.training.state import TrainState, load_model, save_model
from ambient_sweep.training.stream import Stream

SHAPE = (1, 1, 2)
BASE = {
    "model": {"kind": "mlp", "width": 32, "blocks": 1},
    "training": {"images": 640, "batch_size": 16, "records": 10},
    "consistency": {"start": 0.5, "weight": 1.0},
    "evaluation.lengths": [1.0],
    "observed.sigma": 0.3,
}


def observations(count=64, sigma=0.3, clean=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0 = two_modes().draw(count, generator).float()
    y = x0 + sigma * torch.randn(x0.shape, generator=generator)
    return ObservedImages(y, torch.full((count,), sigma), x0 if clean else None)


def run(config, observed, state=None, **options):
    state = state or TrainState.create(config, SHAPE)
    records = list(train(config, observed, state, **options))
    return state, records


def tensors(state):
    slots = [v for p in state.denoiser.parameters() for _, v in sorted(state.optimizer.state[p].items())]
    return [*state.denoiser.state_dict().values(), *state.average.state_dict().values(), *slots]


def assert_same_bits(first, second):
    assert first.images == second.images
    for a, b in zip(tensors(first), tensors(second), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["ambient_consistency", "ambient", "ambient_high_clean_low", "denoising"])
@pytest.mark.parametrize("at", [0.3, 0.5, 0.75])
def test_resuming_is_exact_to_the_bit(tmp_path, kind, at):
    config = build_config(BASE, {"objective.kind": kind, "data.flip": True})
    observed = observations(clean=True)
    whole, records = run(config, observed)
    first = TrainState.create(config, SHAPE)
    stop = config.images_at(at)
    for record in train(config, observed, first, stops=frozenset({stop})):
        if record.images == stop:
            break
    first.save(tmp_path / "state", config)
    second = TrainState.load(tmp_path / "state", config, SHAPE)
    assert second.images == stop
    _, later = run(config, observed, second)
    assert_same_bits(whole, second)
    assert records[-1].loss == later[-1].loss
    assert whole.images == config.steps * config.training.batch_size


def test_how_often_it_reports_changes_nothing():
    config = build_config(BASE)
    plain, _ = run(config, observations())
    often, _ = run(build_config(BASE, {"training.records": 40}), observations(), stops=frozenset({16, 48, 320}))
    assert_same_bits(plain, often)


def test_before_its_start_a_run_does_not_depend_on_consistency():
    """What stages live on: not even the draws of the other losses may shift."""
    half = {"training.stop": 0.5}
    plain, _ = run(build_config(BASE, half, {"objective.kind": "ambient"}), observations())
    for changes in ({"consistency.weight": 7.0}, {"consistency.chain_steps": 9}, {"consistency.start": 0.9}):
        other, records = run(build_config(BASE, half, changes), observations())
        assert_same_bits(plain, other)
        assert all(r.consistency == 0 and r.consistency_weight == 0 for r in records)
    _, records = run(build_config(BASE), observations())
    assert records[-1].consistency != 0


def test_zero_weight_after_the_start_is_the_same_as_no_consistency():
    plain, _ = run(build_config(BASE, {"objective.kind": "ambient"}), observations())
    zero, _ = run(build_config(BASE, {"consistency.weight": 0}), observations())
    assert_same_bits(plain, zero)


class ThreadGroup(Group):
    """Workers as threads that add their numbers up: what torch.distributed does, without processes."""

    shared: dict = {}  # noqa: RUF012

    def _reduce(self, key, tensor):
        box, barrier = self.shared["box"], self.shared["barrier"]
        box[self.rank] = tensor.clone()
        barrier.wait()
        total = sum(box[r] for r in range(self.size))
        barrier.wait()
        return total

    def sum_gradients(self, parameters):
        for p in parameters:
            p.grad.copy_(self._reduce("g", p.grad))

    def sum(self, values):
        return values.copy_(self._reduce("v", values))


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_workers_does_not_change_what_is_trained(size):
    observed = observations()
    one, records = run(build_config(BASE), observed)
    config = build_config(BASE)
    ThreadGroup.shared = {"box": {}, "barrier": threading.Barrier(size)}
    results: dict = {}
    states = [TrainState.create(config, SHAPE) for _ in range(size)]  # not in the threads: layers share a generator

    def worker(rank):
        results[rank] = run(config, observed, states[rank], group=ThreadGroup(rank, size))

    threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(size):
        state, its_records = results[rank]
        for a, b in zip(tensors(one), tensors(state), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert its_records[-1].loss == pytest.approx(records[-1].loss, rel=1e-4)
        assert its_records[-1].gradient_norm == pytest.approx(records[-1].gradient_norm, rel=1e-3)


def fresh_noise_stream(clean, sigma, seed):
    """The mistake: new noise each time an image is read. Averaged over epochs it shows the clean image."""
    generator = torch.Generator().manual_seed(seed)

    class Fresh(Stream):
        def batch(self, start, count):
            batch = super().batch(start, count)
            noisy = batch.y + sigma * torch.randn(batch.y.shape, generator=generator)
            return type(batch)(start, noisy, batch.sigma_n, None)

    return Fresh(ObservedImages(clean, torch.full((len(clean),), sigma)), 0, False)


def leak(stream, clean, epochs=50):
    """Distance of the mean of all that is seen of each image to the clean image, in units of one observation's."""
    n = len(clean)
    seen = torch.zeros_like(clean)
    for epoch in range(epochs):
        images = stream.batch(epoch * n, n).y
        order = torch.tensor([stream._at(p) for p in range(epoch * n, (epoch + 1) * n)])
        seen[order] += images / epochs
    return float((seen - clean).std() / 0.3)


def test_all_that_is_seen_of_an_image_is_one_observation():
    observed = observations(clean=True)
    assert leak(Stream(observed, 0, False), observed.clean) == pytest.approx(1, abs=0.2)
    assert leak(fresh_noise_stream(observed.clean, 0.3, 0), observed.clean) < 0.3  # the mistake is caught


def test_an_epoch_sees_every_image_once_whatever_the_batch():
    observed = observations()
    stream = Stream(observed, 3, False)
    seen = torch.cat([stream.batch(start, 16).y for start in range(64, 128, 16)])
    assert torch.equal(seen.flatten(1).sort(0).values, observed.images.flatten(1).sort(0).values)
    other = Stream(observed, 3, False)
    assert torch.equal(other.batch(64, 64).y, seen)


def test_flips_are_exact_and_come_with_their_clean_image():
    observed = observations(clean=True)
    plain, flipped = Stream(observed, 0, False).batch(0, 64), Stream(observed, 0, True).batch(0, 64)
    mirrored = (flipped.y != plain.y).flatten(1).any(1)
    assert 15 < int(mirrored.sum()) < 49
    assert torch.equal(flipped.y[mirrored], plain.y[mirrored].flip(3))
    assert torch.equal(flipped.clean[mirrored], plain.clean[mirrored].flip(3))


def test_the_share_that_gets_consistency_is_spread_evenly():
    for share in (0.1, 0.25, 0.5, 1.0):
        mask = takes_part(0, 1000, share)
        assert mask.sum() == round(1000 * share)
        halves = mask.reshape(10, 100).sum(1)
        assert halves.max() - halves.min() <= 1
        assert (takes_part(300, 50, share) == mask[300:350]).all()


def test_divergence_names_the_place_and_what_to_do():
    config = build_config(BASE, {"optimizer.lr": 1.0, "optimizer.clip_norm": 1e30, "optimizer.warmup": 0.0})
    observed = observations()
    broken = ObservedImages(observed.images * math.nan, observed.sigma)
    with pytest.raises(TrainingDiverged, match=r"not finite at \d+ images; lower optimizer.lr"):
        run(config, broken)


def test_damaged_and_foreign_states_are_refused(tmp_path):
    config = build_config(BASE)
    state, _ = run(config, observations())
    state.save(tmp_path / "s", config)
    with pytest.raises(UserError, match="another config"):
        TrainState.load(tmp_path / "s", build_config(BASE, {"seed": 1}), SHAPE)
    file = tmp_path / "s" / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"state.safetensors: damaged"):
        TrainState.load(tmp_path / "s", config, SHAPE)
    with pytest.raises(UserError, match="not a readable state"):
        TrainState.load(tmp_path / "none", config, SHAPE)
    assert not list(tmp_path.glob(".*"))  # nothing half written is left


def test_a_saved_model_comes_back_with_its_config(tmp_path):
    config = build_config(BASE)
    state, _ = run(config, observations())
    save_model(tmp_path / "m", state.average, config, state.images, SHAPE, {"data_fingerprint": "abc"})
    model, again, meta = load_model(tmp_path / "m")
    assert again == config
    assert meta["data_fingerprint"] == "abc"
    x, sigma = torch.randn(3, *SHAPE), torch.rand(3)
    assert torch.equal(model(x, sigma), state.average(x, sigma))


def error(state, sigma, count=4000):
    """Mean squared error of the averaged denoiser against the closed form, over the posterior variance."""
    generator = torch.Generator().manual_seed(9)
    mixture = two_modes()
    x0 = mixture.draw(count, generator)
    x = x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    level = torch.full((count,), sigma, dtype=torch.float64)
    exact = mixture.posterior_mean(x, level)
    with torch.no_grad():
        mine = state.average(x.float(), level.float())
    return float(((mine - exact) ** 2).mean() / ((x0 - exact) ** 2).mean())


def test_what_each_objective_learns_of_a_mixture():
    """From noisy data alone, ambient + consistency approaches E[x_0 | x_t] above *and* below the observed level."""
    base = BASE | {
        "model": {"kind": "mlp", "width": 64, "blocks": 2},
        "noise": {"mean": -0.5, "std": 1.0},
        "training": {"images": 128 * 1500, "batch_size": 128},
        "optimizer": {"lr": 3e-3},
        "ema": {"halflife": 20_000, "rampup": 1.0},
        "consistency": {"start": 0.5, "weight": 1.0},
    }
    observed = observations(20_000, clean=True)
    errors = {}
    for kind in ("ambient_consistency", "ambient", "denoising"):
        state, _ = run(build_config(base, {"objective.kind": kind}), observed)
        errors[kind] = {sigma: error(state, sigma) for sigma in (0.1, 0.3, 0.6)}
    for kind in ("ambient", "ambient_consistency"):
        assert errors[kind][0.3] < 0.05
        assert errors[kind][0.6] < 0.02
        assert errors[kind][0.3] < 0.3 * errors["denoising"][0.3]  # which learns E[y | x_t]
    assert errors["ambient_consistency"][0.1] < 0.03
    assert errors["ambient_consistency"][0.1] < 0.4 * errors["ambient"][0.1]
