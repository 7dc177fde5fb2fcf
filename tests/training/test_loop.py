"""The loop: exact resume, records that depend on nothing but the position, steps that do what their equations say."""

import math
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from small_runs import (
    BASE,
    CONDITIONAL,
    UNET,
    assert_same_bits,
    distance,
    loaded,
    new_state,
    observations,
    pictures,
    run,
)

from ambient_sweep import rng
from ambient_sweep.config import build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.errors import TrainingDiverged
from ambient_sweep.training import objective
from ambient_sweep.training.loop import train
from ambient_sweep.training.objective import Stream, takes_part

CHANGES = {
    "consistency": {"data.flip": True},
    "ambient": {"objective.kind": "ambient", "compute.accumulate": 4},
    "high clean low": {"objective.kind": "ambient_high_clean_low"},
    "denoising": {"objective.kind": "denoising", "compute.prefetch": 0, "optimizer.weight_decay": 0.1},
    "power averages": {"ema.kind": "power", "ema.tracked": [0.05, 0.1], "ema.length": 0.1},
    "bf16, checkpointing": {"compute.precision": "bf16", "compute.activation_checkpointing": True},
}


def numbers(records):
    """All that a record says of training, without its pace."""
    return [(r.images, r.loss, r.consistency, r.gradient_norm, r.lr) for r in records]


def until(config, observed, state, images):
    """Trains to `images`, between records, and leaves."""
    with closing(train(config, observed, state, interrupted=lambda: state.images >= images)) as records:
        return list(records)


def test_a_record_is_the_mean_since_the_last_regular_one():
    """Against losses taken one by one, each a record of its own."""
    _, single = run(build_config(BASE, {"training.records": 40}), observations())
    _, tens = run(build_config(BASE), observations(), stops=frozenset({16 * 6}))
    assert [r.images for r in tens][:3] == [64, 96, 128]
    assert tens[0].loss == pytest.approx(sum(r.loss for r in single[:4]) / 4, rel=1e-12)
    assert tens[1].loss == pytest.approx(sum(r.loss for r in single[4:6]) / 2, rel=1e-12)
    assert tens[2].gradient_norm == pytest.approx(sum(r.gradient_norm for r in single[4:8]) / 4, rel=1e-12)
    assert tens[-1].consistency == pytest.approx(sum(r.consistency for r in single[-4:]) / 4, rel=1e-12)


@pytest.mark.parametrize("kind", ["ambient", "ambient_high_clean_low", "denoising"])
def test_losses_are_told_apart_above_and_below_each_images_own_level(kind):
    """Against the losses of one batch, in which every fourth image is clean; nothing is below the level of a clean one."""
    config = build_config(BASE, {"training.images": 16, "objective.kind": kind, "compute.accumulate": 2})
    observed = observations(clean=True)
    observed.sigma[::4] = 0
    draws = objective.draw(config, Stream(observed, config.seed, config.data.flip).batch(0, 16), False)
    sigma_n = Stream(observed, config.seed, config.data.flip).batch(0, 16).sigma_n
    losses = objective.main_loss(new_state(config, observed).denoiser, draws).detach()
    below = draws.sigma < sigma_n
    _, (record,) = run(config, observed)
    assert record.loss_above == pytest.approx(losses[~below].mean().item(), rel=1e-5)
    if kind == "ambient":
        assert not below.any()
        assert record.loss_below is None
    else:
        assert record.loss_below == pytest.approx(losses[below].mean().item(), rel=1e-5)


def one_step(config, observed, state):
    """A step written out: sums over the batch by their counts, clipped, AdamW."""
    batch = Stream(observed, config.seed, config.data.flip).batch(0, config.training.batch_size)
    draws = objective.draw(config, batch, True)
    loss = objective.main_loss(state.denoiser, draws).mean()
    share = takes_part(0, len(batch), config.consistency.batch_share).sum()
    consistency = objective.consistency_term(config, state.denoiser, draws.consistency).sum() / share
    loss = loss + config.consistency.weight * consistency
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.denoiser.parameters(), config.optimizer.clip_norm)
    torch.optim.AdamW(state.denoiser.parameters(), config.optimizer.lr, (0.9, 0.99), weight_decay=0).step()
    return loss.item(), norm.item()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_is_what_its_equations_say(accumulate):
    one = {"training.images": 16, "consistency.start": 0.0, "consistency.weight": 0.7, "consistency.batch_share": 0.4}
    plain = {"optimizer.warmup": 0.0, "compute.accumulate": accumulate, "optimizer.schedule": "constant"}
    config = build_config(BASE, one, plain)
    observed = observations()
    written = new_state(config, observed)
    loss, norm = one_step(config, observed, written)
    state, (record,) = run(config, observed)
    assert record.loss + 0.7 * record.consistency == pytest.approx(loss, rel=1e-6)
    assert record.gradient_norm == pytest.approx(norm, rel=1e-6)
    assert distance(state, written) < 1e-6


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


@pytest.mark.parametrize("change", CHANGES)
def test_resuming_is_exact_to_the_bit_wherever_a_run_was_cut_off(tmp_path, change):
    """At the first step, between records, where consistency starts, and one step before the end."""
    config, observed = build_config(BASE, CHANGES[change]), observations(clean=True)
    whole, records = run(config, observed)
    for images in (16, 320, 336, 624):
        first = new_state(config, observed)
        before = until(config, observed, first, images)
        assert (first.images, before[-1].images) == (images, images)
        first.save(tmp_path / str(images))
        second = loaded(tmp_path / str(images), config, observed)
        assert_same_bits(first, second)
        _, after = run(config, observed, second)
        assert_same_bits(whole, second)
        told = [record for record in before + after if record.images % 64 == 0]  # without the one where it was cut off
        assert numbers(told) == numbers(records)


def test_resuming_is_exact_with_convolutions_and_labels(tmp_path):
    changes = {"training.images": 160, "compute.channels_last": True, "compute.precision": "bf16"} | CONDITIONAL
    config = build_config(UNET, changes)
    whole, _ = run(config, pictures(32))
    half = new_state(config, pictures(32))
    until(config, pictures(32), half, 96)
    half.save(tmp_path / "s")
    again = loaded(tmp_path / "s", config, pictures(32))
    run(config, pictures(32), again)
    assert_same_bits(whole, again)


@pytest.mark.parametrize("steps", [17, 22, 27, 28])
def test_a_run_that_stops_early_is_the_beginning_of_a_longer_one(steps):
    """1, 2 and 3 steps after a regular record, and at one; 40 steps, a record every 4."""
    config = build_config(BASE)
    whole, records = run(config, observations())
    state, first = run(build_config(BASE, {"training.stop": steps / 40}), observations())
    _, second = run(build_config(BASE, {"training.stop": 33 / 40}), observations(), state)
    _, third = run(config, observations(), state)
    assert_same_bits(state, whole)
    assert [r.images for r in (first[-1], second[-1], third[-1])] == [16 * steps, 16 * 33, 640]
    assert numbers(r for r in first + second + third if r.images % 64 == 0) == numbers(records)


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
    whole, _ = run(build_config(BASE, {"objective.kind": "ambient"}), observations())
    assert_same_bits(whole, run(build_config(BASE, {"consistency.weight": 0}), observations())[0])


def leak(stream, clean, epochs=50):
    """Distance of the mean of all that is seen of each image to the clean image, in units of one observation's."""
    n, seen = len(clean), torch.zeros_like(clean)
    for epoch in range(epochs):
        rows = torch.from_numpy(rng.permutation("train.epoch", stream.seed, epoch, n))
        seen[rows] += stream.batch(epoch * n, n).y / epochs
    return float((seen - clean).std() / 0.3)


class FreshNoise(Stream):
    """The mistake: new noise each time an image is read. Averaged over epochs it shows the clean image."""

    def batch(self, start, count):
        batch = super().batch(start, count)
        noise = torch.randn(batch.y.shape, generator=torch.Generator().manual_seed(start))
        return replace(batch, y=batch.y + 0.3 * noise)


def test_all_that_is_seen_of_an_image_is_one_observation():
    observed = observations(clean=True)
    assert leak(Stream(observed, 0, False), observed.clean) == pytest.approx(1, abs=0.2)
    unprotected = ObservedImages(observed.clean, observed.sigma)
    assert leak(FreshNoise(unprotected, 0, False), observed.clean) < 0.3


@pytest.mark.parametrize(
    ("broken", "name"),
    [(lambda losses: losses * math.nan, "loss"), (lambda losses: losses + (0 * losses).sqrt(), "gradient norm")],
)
def test_what_is_not_finite_is_named_and_never_yielded(monkeypatch, broken, name):
    """The square root's slope at 0 is infinite, its value is not."""
    losses, count = objective.main_loss, []

    def later(denoiser, draws):
        count.append(1)
        return broken(losses(denoiser, draws)) if len(count) > 20 else losses(denoiser, draws)

    monkeypatch.setattr(objective, "main_loss", later)
    config = build_config(BASE)
    records = train(config, observations(), new_state(config, observations()), stops=frozenset({336}))
    assert [next(records).images for _ in range(5)] == [64, 128, 192, 256, 320]
    words = rf"^the {name} is not finite at 336 images \((nan|inf)\); lower optimizer"
    with pytest.raises(TrainingDiverged, match=words):
        next(records)
