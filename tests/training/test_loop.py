"""The loop: exact resume, records that depend on nothing but the position, steps that do what their equations say."""

import math
from contextlib import closing

import pytest
import torch
from small_runs import (
    BASE,
    CONDITIONAL,
    UNET,
    assert_same_bits,
    distance,
    new_state,
    observations,
    pictures,
    run,
)

from ambient_sweep.config import build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.errors import TrainingDiverged
from ambient_sweep.training import objective
from ambient_sweep.training.loop import train
from ambient_sweep.training.objective import takes_part
from ambient_sweep.training.state import TrainState
from ambient_sweep.training.stream import Stream

KINDS = ["ambient_consistency", "ambient", "ambient_high_clean_low", "denoising"]
KNOBS = {
    "plain": {},
    "ema target, parts": {"consistency.target": "ema", "compute.accumulate": 4},
    "power averages": {"ema.kind": "power", "ema.tracked": [0.05, 0.1], "ema.length": 0.1},
    "spikes watched": {"training.spike": 1e6},
    "bf16, checkpointing": {"compute.precision": "bf16", "compute.activation_checkpointing": True},
    "no prefetch, decay": {"compute.prefetch": 0, "optimizer.weight_decay": 0.1},
}


def until(config, observed, state, images):
    """Trains to `images`, between records, and leaves."""
    with closing(train(config, observed, state, interrupted=lambda: state.images >= images)) as records:
        return list(records)


def resumed(config, observed, images, folder):
    """A run saved and loaded at `images`, and the records of both halves."""
    first = new_state(config, observed)
    before = until(config, observed, first, images)
    first.save(folder)
    second = new_state(config, observed)
    second = TrainState.load(folder, config, second.shape, classes=second.classes)
    assert second.images == images
    assert_same_bits(first, second)
    _, after = run(config, observed, second)
    return second, before + after


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_is_exact_to_the_bit_at_any_step(tmp_path, kind):
    config = build_config(BASE, {"objective.kind": kind, "data.flip": True})
    observed = observations(clean=True)
    whole, records = run(config, observed)
    assert whole.images == config.steps * config.training.batch_size
    for images in (16, 304, 320, 336, 624):
        state, halves = resumed(config, observed, images, tmp_path / str(images))
        assert_same_bits(whole, state)
        if images % 64:  # the record where it was interrupted comes between the regular ones
            halves = [record for record in halves if record.images != images]
        for one, other in zip(records, halves, strict=True):
            assert (one.images, one.loss, one.consistency) == (other.images, other.loss, other.consistency)
            assert (one.gradient_norm, one.lr) == (other.gradient_norm, other.lr)


@pytest.mark.parametrize("knob", KNOBS)
def test_resuming_is_exact_with_every_knob(tmp_path, knob):
    config = build_config(BASE, KNOBS[knob])
    whole, _ = run(config, observations())
    state, _ = resumed(config, observations(), 336, tmp_path / "state")
    assert_same_bits(whole, state)


@pytest.mark.parametrize("knob", ["ema target, parts", "bf16, checkpointing"])
def test_resuming_is_exact_with_convolutions_and_labels(tmp_path, knob):
    changes = {"training.images": 160, "compute.channels_last": True} | CONDITIONAL | KNOBS[knob]
    config = build_config(UNET, changes)
    whole, _ = run(config, pictures(32))
    state, _ = resumed(config, pictures(32), 96, tmp_path / "state")
    assert_same_bits(whole, state)


@pytest.mark.parametrize("knob", KNOBS)
def test_a_run_that_stops_early_is_the_beginning_of_a_longer_one(tmp_path, knob):
    """Wherever it stops: 1, 2 and 3 steps after a regular record, and at one; 40 steps, a record every 4."""
    config = build_config(BASE, KNOBS[knob])
    whole, records = run(config, observations())
    for steps in (17, 22, 27, 28):
        early = build_config(BASE, KNOBS[knob], {"training.stop": steps / 40})
        state, first = run(early, observations())
        passing = new_state(config, observations())
        until(config, observations(), passing, 16 * steps)
        assert_same_bits(state, passing)
        state.save(tmp_path / str(steps))
        longer = TrainState.load(tmp_path / str(steps), early, state.shape)
        _, second = run(build_config(BASE, KNOBS[knob], {"training.stop": 33 / 40}), observations(), longer)
        _, third = run(config, observations(), longer)
        assert_same_bits(longer, whole)
        assert [r.images for r in (first[-1], second[-1], third[-1])] == [16 * steps, 16 * 33, 640]
        told = [r for r in first + second + third if r.images % 64 == 0]
        assert [(r.images, r.loss, r.consistency, r.gradient_norm, r.lr) for r in told] == [
            (r.images, r.loss, r.consistency, r.gradient_norm, r.lr) for r in records
        ]


def test_how_often_it_reports_changes_nothing():
    config = build_config(BASE)
    plain, records = run(config, observations())
    often, more = run(config, observations(), stops=frozenset({16, 48, 320}))
    assert_same_bits(plain, often)
    regular = [record for record in more if record.images not in (16, 48)]
    assert [r.loss for r in records] == [r.loss for r in regular]
    assert len(more) == len(records) + 2


def test_a_record_is_the_mean_since_the_last_regular_one():
    """Against losses taken one by one, each a record of its own."""
    _, single = run(build_config(BASE, {"training.records": 40}), observations())
    _, tens = run(build_config(BASE), observations(), stops=frozenset({16 * 6}))
    assert [r.images for r in tens][:3] == [64, 96, 128]
    assert tens[0].loss == pytest.approx(sum(r.loss for r in single[:4]) / 4, rel=1e-12)
    assert tens[1].loss == pytest.approx(sum(r.loss for r in single[4:6]) / 2, rel=1e-12)
    assert tens[2].gradient_norm == pytest.approx(sum(r.gradient_norm for r in single[4:8]) / 4, rel=1e-12)
    assert tens[-1].consistency == pytest.approx(sum(r.consistency for r in single[-4:]) / 4, rel=1e-12)


def test_before_its_start_a_run_does_not_depend_on_consistency():
    """What stages live on: not even the draws of the other losses may shift."""
    half = {"training.stop": 0.5}
    plain, _ = run(build_config(BASE, half, {"objective.kind": "ambient"}), observations())
    for changes in (
        {"consistency.weight": 7.0}, {"consistency.chain_steps": 9}, {"consistency.start": 0.9},
        {"consistency.target": "ema"},
    ):  # fmt: skip
        other, records = run(build_config(BASE, half, changes), observations())
        assert_same_bits(plain, other)
        assert all(r.consistency == 0 and r.consistency_weight == 0 for r in records)
    _, records = run(build_config(BASE), observations())
    assert records[-1].consistency != 0


def test_zero_weight_after_the_start_is_the_same_as_no_consistency():
    plain, _ = run(build_config(BASE, {"objective.kind": "ambient"}), observations())
    zero, _ = run(build_config(BASE, {"consistency.weight": 0}), observations())
    assert_same_bits(plain, zero)


def one_step(config, observed, state):
    """A step written out: sums over the batch by their counts, clipped, AdamW."""
    batch = Stream(observed, config.seed, config.data.flip).batch(0, config.training.batch_size)
    draws = objective.draw(config, batch, True)
    loss = objective.main_loss(state.denoiser, draws).mean()
    share = takes_part(0, len(batch), config.consistency.batch_share).sum()
    loss = (
        loss
        + config.consistency.weight
        * objective.consistency_term(config, state.denoiser, draws.consistency).sum()
        / share
    )
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.denoiser.parameters(), config.optimizer.clip_norm)
    optimizer = torch.optim.AdamW(
        state.denoiser.parameters(), lr=config.optimizer.lr, betas=(0.9, 0.99), weight_decay=0
    )
    optimizer.step()
    return loss.item(), norm.item()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_is_what_its_equations_say(accumulate):
    one = {"training.images": 16, "consistency.start": 0.0, "consistency.weight": 0.7, "consistency.batch_share": 0.4}
    config = build_config(
        BASE, one, {"optimizer.warmup": 0.0, "compute.accumulate": accumulate, "optimizer.schedule": "constant"}
    )
    observed = observations()
    written = new_state(config, observed)
    loss, norm = one_step(config, observed, written)
    state, (record,) = run(config, observed)
    assert record.loss + 0.7 * record.consistency == pytest.approx(loss, rel=1e-6)
    assert record.gradient_norm == pytest.approx(norm, rel=1e-6)
    assert distance(state, written) < 1e-6


def test_it_ends_at_the_step_after_which_it_is_interrupted():
    config = build_config(BASE)
    whole, _ = run(config, observations())
    state = new_state(config, observations())
    records = until(config, observations(), state, 112)
    assert [r.images for r in records] == [64, 112]
    assert state.images == 112
    run(config, observations(), state)
    assert_same_bits(whole, state)


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


NOT_FINITE = r"not finite at \d+ images \((nan|inf)\); lower optimizer.lr"


def test_divergence_names_the_place_and_what_to_do():
    config = build_config(BASE, {"optimizer.lr": 1.0, "optimizer.clip_norm": 1e30, "optimizer.warmup": 0.0})
    observed = observations()
    broken = ObservedImages(observed.images * math.nan, observed.sigma)
    with pytest.raises(TrainingDiverged, match="the loss is " + NOT_FINITE):
        run(config, broken)


def test_a_gradient_that_is_not_finite_counts_too(monkeypatch):
    """The square root's slope at 0 is infinite, its value is not."""
    losses = objective.main_loss
    monkeypatch.setattr(objective, "main_loss", lambda d, draws: losses(d, draws) + (0 * losses(d, draws)).sqrt())
    with pytest.raises(TrainingDiverged, match="the gradient norm is " + NOT_FINITE):
        run(build_config(BASE, {"objective.kind": "ambient"}), observations(), stops=frozenset({16}))
