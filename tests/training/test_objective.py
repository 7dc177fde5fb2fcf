"""The draws behind the losses: levels, chains, which images take part; and what a step costs."""

import numpy as np
import pytest
import torch
from scipy import stats

from ambient_sweep.config import build_config
from ambient_sweep.config.cost import step_cost
from ambient_sweep.training.objective import Batch, consistency_term, draw, main_loss, takes_part

COUNT = 4000


def batch(count=COUNT, sigma=0.3, labels=None, classes=0):
    generator = torch.Generator().manual_seed(0)
    level = torch.full((count,), sigma) if isinstance(sigma, float) else sigma
    return Batch(640, torch.randn(count, 1, 2, 2, generator=generator), level, None, labels, classes)


def consistency(**changes):
    return build_config({f"consistency.{key}": value for key, value in changes.items()})


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_chains_descend_from_the_observation_to_log_uniform_levels(steps):
    config, images = consistency(batch_share=0.5, chain_steps=steps, lowest=0.1), batch()
    chains = draw(config, images, consistency=True).consistency
    assert torch.equal(chains.x, images.y[torch.from_numpy(takes_part(640, COUNT, 0.5))])
    assert chains.levels.shape == (COUNT // 2, steps + 1)
    assert (chains.levels[:, 0] == 0.3).all()
    assert (chains.levels.diff(dim=1) < 0).all()
    last = chains.levels[:, -1].double().log().numpy()
    assert stats.kstest(last, "uniform", args=(np.log(0.03), np.log(10))).pvalue > 1e-3
    s = chains.levels[:, 0]
    torch.testing.assert_close(chains.weight, (s**2 + 0.25) / (s * 0.5) ** 2)  # lambda at the observed level


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_the_share_with_consistency_is_spread_evenly(share):
    mask = takes_part(0, 1000, share)
    assert mask.sum() == round(1000 * share)
    hundreds = mask.reshape(10, 100).sum(1)
    assert hundreds.max() - hundreds.min() <= 1
    assert (takes_part(300, 50, share) == mask[300:350]).all()


def test_clean_images_among_noisy_ones_are_trained_at_all_levels_and_without_consistency():
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


@pytest.mark.parametrize("changes", [{}, {"chain_steps": 4}, {"draws": 5}, {"chain_steps": 1, "batch_share": 0.5}])
def test_the_cost_of_a_step_is_that_of_its_passes(changes):
    config = consistency(**changes)
    draws, counter = draw(config, batch(1200), consistency=True), Counter()
    main_loss(counter, draws)
    plain = counter.passes
    consistency_term(config, counter, draws.consistency)
    assert counter.passes / plain == pytest.approx(step_cost(config), rel=0.01)
    assert step_cost(consistency()) <= 1.6
