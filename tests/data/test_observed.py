import pytest
import torch
from scipy import stats

from ambient_sweep.config import DataConfig, ObservedConfig
from ambient_sweep.data.images import load_data
from ambient_sweep.data.observed import observe


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig(train_size=300))


def noise(data, **config):
    return observe(data, ObservedConfig(**config)).images - data.train


def test_noise_is_normal_at_the_asked_level_and_not_clipped(data):
    eps = noise(data, sigma=0.7).flatten() / 0.7
    assert stats.kstest(eps.numpy(), "norm").pvalue > 1e-3
    observed = observe(data, ObservedConfig(sigma=0.7))
    assert observed.images.min() < -1.5
    assert observed.images.max() > 1.5
    assert (observed.sigma == 0.7).all()


def test_noise_belongs_to_the_image_not_to_its_place_in_the_split(data):
    other = load_data(DataConfig(train_size=300, split_seed=5))
    mine, theirs = noise(data, sigma=0.3), noise(other, sigma=0.3)
    places = {int(i): k for k, i in enumerate(other.train_index)}
    common = [(k, places[int(i)]) for k, i in enumerate(data.train_index) if int(i) in places]
    assert len(common) > 20
    for a, b in common:
        torch.testing.assert_close(mine[a], theirs[b], atol=1e-6, rtol=0)


def test_levels_share_one_draw_and_seeds_do_not(data):
    torch.testing.assert_close(noise(data, sigma=0.6), 2 * noise(data, sigma=0.3), atol=1e-5, rtol=0)
    first, second = noise(data, sigma=0.3, seed=0).flatten(), noise(data, sigma=0.3, seed=1).flatten()
    assert torch.corrcoef(torch.stack([first, second]))[0, 1].abs() < 0.03


def test_levels_above_a_base_are_the_base_plus_further_noise(data):
    """So all levels together say no more about an image than the base does."""
    base = observe(data, ObservedConfig(sigma=0.2, base_sigma=0.2)).images
    higher = observe(data, ObservedConfig(sigma=0.5, base_sigma=0.2)).images
    added, first = (higher - base).flatten(), (base - data.train).flatten()
    assert first.std() == pytest.approx(0.2, rel=0.02)
    assert added.std() == pytest.approx((0.25 - 0.04) ** 0.5, rel=0.02)
    assert (higher - data.train).std() == pytest.approx(0.5, rel=0.02)
    assert torch.corrcoef(torch.stack([added, first]))[0, 1].abs() < 0.03


def test_level_zero_is_the_clean_image(data):
    assert torch.equal(observe(data, ObservedConfig(sigma=0)).images, data.train)


def test_clean_images_travel_only_when_asked_for(data):
    assert observe(data, ObservedConfig(sigma=0.3)).clean is None
    assert torch.equal(observe(data, ObservedConfig(sigma=0.3), keep_clean=True).clean, data.train)
