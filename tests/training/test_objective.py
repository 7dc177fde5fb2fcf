"""The draws behind the losses: levels, chains, who takes part; and what a step costs."""

import numpy as np
import pytest
import torch
from scipy import stats

from ambient_sweep.config import build_config
from ambient_sweep.training.objective import (
    branch_of,
    chain_levels,
    consistency_term,
    draw,
    main_loss,
    step_cost,
    takes_part,
)
from ambient_sweep.training.stream import Batch

COUNT = 4000


def batch(count=COUNT, sigma=0.3, labels=None, classes=0):
    generator = torch.Generator().manual_seed(0)
    level = torch.full((count,), sigma) if isinstance(sigma, float) else sigma
    return Batch(640, torch.randn(count, 1, 2, 2, generator=generator), level, None, labels, classes)


def consistency(**changes):
    return build_config({f"consistency.{key}": value for key, value in changes.items()})


def levels(count=COUNT, first=0.5, **changes):
    u = np.random.default_rng(0).uniform(size=count)
    return chain_levels(consistency(**changes).consistency, torch.full((count,), first).double(), u, -1.2, 1.2)


@pytest.mark.parametrize("distribution", ["uniform", "loguniform", "lognormal"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("gap", [1.0, 0.3])
def test_chains_descend_from_their_first_level_by_no_more_than_the_largest_gap(distribution, steps, gap):
    rows = levels(levels=distribution, chain_steps=steps, largest_gap=gap, lowest=0.05)
    assert rows.shape == (COUNT, steps + 1)
    assert (rows[:, 0] == 0.5).all()
    assert (rows.diff(dim=1) <= 0).all()
    assert rows[:, -1].min() >= 0.5 * 0.05 * (1 - 1e-9)
    assert (rows[:, -1] >= rows[:, -2] * (1 - gap) - 1e-12).all()
    if gap == 0.3 and steps > 1:  # the last level itself does not move: the step before it does
        assert rows[:, -1].min() < 0.1


def test_last_levels_follow_their_distribution():
    def p(values, law, *arguments):
        return stats.kstest(values.numpy(), law, args=arguments).pvalue

    assert p(levels(levels="uniform", lowest=0.1)[:, -1], "uniform", 0.05, 0.45) > 1e-3
    assert p(levels(levels="loguniform", lowest=0.1)[:, -1].log(), "uniform", np.log(0.05), np.log(10)) > 1e-3
    low, high = (np.log(0.05) + 1.2) / 1.2, (np.log(0.5) + 1.2) / 1.2
    drawn = (levels(levels="lognormal", lowest=0.1)[:, -1].log() + 1.2) / 1.2
    assert p(drawn, "truncnorm", low, high) > 1e-3


def test_chains_begin_at_the_observation():
    config, images = consistency(batch_share=0.5), batch()
    chains = draw(config, images, consistency=True).consistency
    chosen = torch.from_numpy(takes_part(640, COUNT, 0.5))
    assert torch.equal(chains.x, images.y[chosen])
    assert (chains.levels[:, 0] == 0.3).all()


def test_chains_that_begin_everywhere_begin_with_noise_of_their_level():
    config, images = consistency(batch_share=1.0, origin="everywhere"), batch()
    chains = draw(config, images, consistency=True).consistency
    first = chains.levels[:, 0].double()
    added = (chains.x - images.y).flatten(1).double()
    above = first > 0.3 + 1e-6
    assert 0.2 < above.double().mean() < 0.8  # log sigma ~ N(-1.2, 1.2): half lies above 0.3
    assert (added[~above] == 0).all()
    scaled = added[above] / (first[above] ** 2 - 0.3**2).sqrt()[:, None]
    assert stats.kstest(scaled.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("at", ["boundary", "last"])
def test_the_weight_is_lambda_at_the_level_asked_for(at):
    config = consistency(batch_share=1.0, level_weight=at)
    chains = draw(config, batch(50), consistency=True).consistency
    s = chains.levels[:, 0 if at == "boundary" else -1]
    torch.testing.assert_close(chains.weight, (s**2 + 0.25) / (s * 0.5) ** 2)


def test_draws_do_not_depend_on_how_a_batch_is_cut():
    config, whole = consistency(batch_share=0.3, origin="everywhere"), batch(64)
    part = Batch(640 + 20, whole.y[20:40], whole.sigma_n[20:40], None)
    full, cut = draw(config, whole, consistency=True), draw(config, part, consistency=True)
    assert torch.equal(full.sigma[20:40], cut.sigma)
    assert torch.equal(full.noise[20:40], cut.noise)
    before = int(takes_part(640, 20, 0.3).sum())
    rows = slice(before, before + len(cut.consistency.x))
    for name in ("x", "levels", "noise", "weight"):
        assert torch.equal(getattr(full.consistency, name)[rows], getattr(cut.consistency, name))


def test_clean_images_among_noisy_ones_are_trained_at_all_levels_and_take_no_part_in_consistency():
    sigma = torch.where(torch.arange(COUNT) % 2 == 0, 0.0, 0.3)
    draws = draw(consistency(batch_share=1.0), batch(sigma=sigma), consistency=True)
    assert (draws.sigma[1::2] > 0.3).all()
    assert stats.kstest(draws.sigma[::2].double().log().numpy(), "norm", args=(-1.2, 1.2)).pvalue > 1e-3
    assert len(draws.consistency.x) == COUNT // 2
    assert draw(consistency(), batch(sigma=0.0), consistency=True).consistency is None


def test_labels_are_hidden_at_the_rate_asked_for():
    labels = torch.arange(COUNT) % 7
    config = build_config({"model.conditional": True, "model.label_dropout": 0.2, "consistency.batch_share": 0.5})
    draws = draw(config, batch(labels=labels, classes=7), consistency=True)
    hidden = draws.labels == 7
    assert hidden.double().mean() == pytest.approx(0.2, abs=0.02)
    assert torch.equal(draws.labels[~hidden], labels[~hidden])
    assert torch.equal(draws.consistency.labels, draws.labels[torch.from_numpy(takes_part(640, COUNT, 0.5))])
    assert draw(build_config({}), batch(labels=labels, classes=7), consistency=True).labels is None


class Counter:
    """A denoiser that counts the images it sees, three times those whose gradient is asked for."""

    def __init__(self):
        self.weight, self.passes = torch.ones((), requires_grad=True), 0

    def __call__(self, x, sigma):
        self.passes += len(x) * (3 if torch.is_grad_enabled() else 1)
        return self.weight * x


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"branch": "last", "chain_steps": 4}, {"draws": 5}, {"gradient": "rollout", "chain_steps": 3},
        {"preset": "tweedie-2404.10177"}, {"preset": "noisy-worth-2411.02780"},
    ],
)  # fmt: skip
def test_the_cost_of_a_step_is_that_of_the_passes_it_makes(changes):
    config = consistency(**changes)
    draws, counter = draw(config, batch(1200), consistency=True), Counter()
    main_loss(counter, draws)
    plain = counter.passes
    consistency_term(config, counter, draws.consistency)
    assert counter.passes / plain == pytest.approx(step_cost(config), rel=0.01)


def test_the_default_costs_at_most_1_6_plain_steps_and_the_papers_twice_that():
    assert step_cost(consistency()) <= 1.6
    assert step_cost(consistency(preset="noisy-worth-2411.02780")) == pytest.approx(3.4, abs=0.1)
    assert step_cost(consistency(preset="tweedie-2404.10177")) == pytest.approx(2.9, abs=0.1)


def test_a_teacher_gives_chain_and_target():
    config = consistency(chain_steps=3, branch="last")
    draws, student, teacher = draw(config, batch(100), consistency=True), Counter(), Counter()
    value = consistency_term(config, student, draws.consistency, teacher)
    taking = len(draws.consistency.x)
    assert student.passes == 3 * 2 * taking
    assert teacher.passes == (branch_of(config.consistency) + 1) * taking
    value.sum().backward()
    assert student.weight.grad.abs() > 0
    assert teacher.weight.grad is None
