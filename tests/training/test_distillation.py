"""Distillation: its loss against a closed form, its step against its equations; up to its start a run is ambient."""

from dataclasses import replace

import pytest
import torch
from closed_forms import gaussian, standard_errors
from small_runs import (
    BASE,
    CONDITIONAL,
    UNET,
    assert_same_bits,
    loaded,
    new_state,
    observations,
    pictures,
    run,
    small,
)

from ambient_sweep import rng
from ambient_sweep.config import build_config
from ambient_sweep.config.cost import plain_images, step_cost
from ambient_sweep.diffusion.loss import ambient_loss, distillation_loss
from ambient_sweep.diffusion.noise import karras, sampling_level
from ambient_sweep.errors import UserError
from ambient_sweep.training import distillation
from ambient_sweep.training.loop import train
from ambient_sweep.training.objective import Stream

START = 320
DISTILLED = {"objective.kind": "ambient_distilled", "distillation.start": 0.5, "distillation.lr": 1e-3}
SHORT = {"training.images": 160, "training.records": 2}


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
def test_the_loss_is_the_squared_difference_of_the_denoisers_where_the_fake_one_is_exact(alpha):
    """E [ loss mean|x - a| ] = (1 - alpha) E || a - b ||^2, with Gaussians of other widths for teacher and generator."""
    teacher, own = gaussian(0.5).posterior_mean, gaussian(0.3).posterior_mean
    generator = torch.Generator().manual_seed(0)
    x = gaussian(0.3).draw(200_000, generator)
    sigma = torch.rand(len(x), generator=generator, dtype=x.dtype) + 0.05
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    xt = x + sigma[:, None, None, None] * noise
    a, b = teacher(xt, sigma), own(xt, sigma)
    losses = distillation_loss(teacher, own, x, sigma, noise, alpha) * (x - a).abs().flatten(1).mean(1)
    square = ((a - b) ** 2).flatten(1).mean(1)
    assert standard_errors(losses - (1 - alpha) * square) < 4
    assert standard_errors(losses - (1.1 - alpha) * square) > 10  # it would notice


def test_levels_are_those_of_the_sampling_grid():
    grid = karras(torch.tensor(80.0).double(), torch.tensor(0.002).double(), 10)
    assert torch.allclose(torch.from_numpy(sampling_level([1 - i / 10 for i in range(11)], 0.002, 80.0, 7.0)), grid)


def test_up_to_its_start_a_run_is_ambient_to_the_bit():
    whole, _ = run(build_config(BASE, DISTILLED, {"training.stop": 0.5}), observations())
    ambient, _ = run(build_config(BASE, {"objective.kind": "ambient", "training.stop": 0.5}), observations())
    assert whole.images == START
    assert_same_bits(whole, ambient)


def state_at_start(config, observed):
    state = new_state(config, observed)
    for record in train(config, observed, state, interrupted=lambda: state.images >= START):
        assert record.distillation is None
    assert state.images == START
    return state


def written_step(config, observed, state):
    """A distilled step written out: both networks by name, frozen weights by copies, Adam without momentum."""
    d, batch = config.distillation, Stream(observed, config.seed, config.data.flip).batch(START, 16)
    phi = state.average
    networks = [phi, *(state.average.train().requires_grad_(True) for _ in range(2))]
    teacher, fake, generator = networks
    adams = [torch.optim.AdamW(n.parameters(), d.lr, betas=(0.0, 0.99), weight_decay=0) for n in (fake, generator)]

    def normal(purpose):
        return rng.normal(purpose, config.seed, range(START, START + 16), batch.y.shape[1:])

    def made(z):
        return generator(d.sigma * z, torch.full((16,), d.sigma))

    def moved(network, adam, loss):
        adam.zero_grad()
        loss.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
        adam.step()
        return loss.mean().item(), norm.item()

    losses = []
    for k in range(d.ratio):
        drawn = distillation.draw(config, batch).fake[k].main  # its levels: tested with ambient training's
        y = made(normal(f"train.fake.{k}.z")).detach()
        y = y + batch.sigma_n[:, None, None, None] * normal(f"train.fake.{k}.observed")
        loss = ambient_loss(fake, y, batch.sigma_n, drawn.sigma, normal(f"train.fake.{k}.noise"), drawn.weight)
        losses.append(moved(fake, adams[0], loss)[0])
    u = torch.from_numpy(rng.uniform("train.generator.sigma", config.seed, START, 16)[:, 0])
    s = config.sampling
    highest = 0.2 * s.sigma_min ** (1 / 7) + 0.8 * s.sigma_max ** (1 / 7)  # no level is below that of the observations
    sigma = ((1 - u) * 0.3 ** (1 / 7) + u * highest) ** 7
    x = made(normal("train.generator.z"))
    xt = x + sigma.float()[:, None, None, None] * normal("train.generator.noise")
    frozen = state.with_weights(dict(fake.named_parameters()))
    a, b = teacher(xt, sigma.float()), frozen(xt, sigma.float())
    mean = (x - a).abs().mean((1, 2, 3), keepdim=True).detach()
    loss, norm = moved(generator, adams[1], (a - b) * (a - x - d.alpha * (a - b)) / mean)
    return teacher, fake, generator, sum(losses) / d.ratio, loss, norm


def same(first, second):
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    return all(torch.allclose(p, q, rtol=0, atol=2e-6) and name == other for (name, p), (other, q) in pairs)


@pytest.mark.parametrize("changes", [{}, {"distillation.ratio": 3}, {"compute.accumulate": 4}], ids=str)
def test_a_distilled_step_is_what_its_equations_say(changes):
    config, observed = small(DISTILLED, {"training.records": 40, "distillation.lr": 1e-4}, changes), observations()
    state = state_at_start(config, observed)
    teacher, fake, generator, of_fake, of_generator, norm = written_step(config, observed, state)
    record = next(train(config, observed, state))
    assert (state.images, record.lr) == (START + 16, 1e-4)
    assert record.loss == pytest.approx(of_fake, rel=1e-5)
    assert record.distillation == pytest.approx(of_generator, rel=1e-4)
    assert record.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert all(
        torch.equal(p, q) for p, q in zip(state.distillation.teacher.parameters(), teacher.parameters(), strict=True)
    )
    assert same(state.distillation.fake, fake)
    assert same(state.denoiser, generator)
    assert not same(state.denoiser, teacher)
    kept = 0.5 ** (16 / (16 * config.ema.rampup))  # the average begins anew with the generator
    for name, weight in state.average.named_parameters():
        expected = kept * teacher.get_parameter(name) + (1 - kept) * generator.get_parameter(name)
        torch.testing.assert_close(weight, expected, rtol=0, atol=2e-6)
    assert not same(state.distillation.fake, teacher)
    assert all(p.grad is None for p in state.distillation.teacher.parameters())


def test_generated_observations_have_the_levels_and_labels_of_the_batch():
    observed = pictures(32, clean_share=0.25)
    config = build_config(UNET, CONDITIONAL, DISTILLED, {"model.label_dropout": 0.0, "distillation.ratio": 2})
    batch = Stream(observed, 0, False).batch(0, 32)
    draws = distillation.draw(config, batch)
    assert batch.sigma_n.unique().tolist() == pytest.approx([0.0, 0.3])
    for fake in draws.fake:
        assert torch.equal(fake.main.known, batch.sigma_n)
        assert torch.equal(fake.main.labels, batch.labels)
        assert (fake.main.sigma >= batch.sigma_n).all()
        assert torch.allclose(fake.main.y.flatten(1).std(1), batch.sigma_n, rtol=0.3)
    assert torch.equal(draws.generator.labels, batch.labels)
    z = [draws.generator.z, *(fake.z for fake in draws.fake), *(fake.main.noise for fake in draws.fake)]
    assert all(not torch.equal(a, b) for i, a in enumerate(z) for b in z[:i])


@pytest.mark.parametrize(
    "changes",
    [
        {"distillation.ratio": 2, "data.flip": True},
        {"compute.precision": "bf16", "compute.activation_checkpointing": True},
    ],
    ids=["ratio 2", "bf16, checkpointing"],
)
def test_a_distilled_run_resumes_to_the_bit(tmp_path, changes):
    """At the start, one step after it, and one step before the end; with convolutions and labels."""
    config, observed = build_config(UNET, CONDITIONAL, DISTILLED, SHORT, changes), pictures(32, clean_share=0.25)
    whole, records = run(config, observed)
    assert records[-1].distillation
    for images in (80, 96, 144):
        first = new_state(config, observed)
        for _ in train(config, observed, first, interrupted=lambda first=first, images=images: first.images >= images):
            pass
        assert first.images == images
        first.save(tmp_path / str(images))
        second = loaded(tmp_path / str(images), config, observed)
        assert_same_bits(first, second)
        _, after = run(config, observed, second)
        assert_same_bits(whole, second)
        assert replace(after[-1], images_per_second=0) == replace(records[-1], images_per_second=0)


def test_activations_computed_again_change_no_bit():
    config, observed = build_config(UNET, DISTILLED, SHORT), pictures(32)
    plain, _ = run(config, observed)
    again, _ = run(build_config(UNET, DISTILLED, SHORT, {"compute.activation_checkpointing": True}), observed)
    assert_same_bits(plain, again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema.kind": "power"}, "ema.kind: power"),
        ({"distillation.start": 0.99}, "distillation.start: 0.99 leaves none of 40 steps"),
        ({"distillation.start": 0.0}, "distillation.start"),
        ({"distillation.start": 1.0}, "distillation.start"),
        ({"distillation.sigma": 90.0}, "distillation.sigma: 90.0 must be above"),
        ({"distillation.sigma": 0.2}, "distillation.sigma: 0.2 must be above observed.sigma=0.3"),
        (
            {"model.kind": "lora", "model.base": "base", "data.source": "store", "data.path": "s"},
            "ambient_distilled would",
        ),
        ({"sampling.guidance": 2.0, "model.conditional": True}, "sampling.guidance: a generator"),
    ],
)
def test_what_a_generator_cannot_be_asked_for_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        small(DISTILLED, changes)


@pytest.mark.parametrize("records", [40, 4, 3, 1])
def test_no_record_mixes_the_teacher_with_its_generator(records):
    """Of every record after the start, the generator's loss is the mean over distilled steps alone."""
    observed = observations()
    fine, coarse = (
        {record.images: record for record in run(small(DISTILLED, {"training.records": n}), observed)[1]}
        for n in (40, records)
    )
    begun = START
    for images, record in sorted(coarse.items()):
        if images > START:
            steps = range(begun + 16, images + 1, 16)
            mean = sum(fine[step].distillation for step in steps) / len(steps)
            assert record.distillation == pytest.approx(mean, rel=1e-4)
            assert record.loss == pytest.approx(sum(fine[step].loss for step in steps) / len(steps), rel=1e-4)
            begun = images


def test_the_images_of_plain_training_are_those_of_as_many_passes():
    config = small(DISTILLED)
    assert [plain_images(config, images) for images in (160, START, 336, 640)] == [160, START, START + 59, START + 1173]
    assert plain_images(small({"objective.kind": "ambient"}), 640) == 640
    late = small({"consistency.start": 0.5})
    assert plain_images(late, 640) == round(START + START * step_cost(late))
    assert plain_images(small({"consistency.start": 0.5, "consistency.weight": 0.0}), 640) == 640
    assert plain_images(small({"consistency.start": 0.0}), 640) == round(640 * step_cost(late))


def test_the_cost_of_a_distilled_step_counts_passes():
    assert step_cost(small(DISTILLED)) == pytest.approx(11 / 3)
    assert step_cost(small(DISTILLED, {"distillation.ratio": 3})) == pytest.approx(19 / 3)
