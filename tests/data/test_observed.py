import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ambient_sweep import rng
from ambient_sweep.config import DataConfig, ObservedConfig
from ambient_sweep.data import observed as observed_module
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.observed import observe
from ambient_sweep.errors import UserError


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig(train_size=300))


def test_an_observation_is_its_formula(data):
    """y = x + s_b eps + sqrt(s^2 - s_b^2) eps', with the draws of the image's place in the source."""
    observed = observe(data, ObservedConfig(sigma=0.5, base_sigma=0.3, seed=4))
    index = data.train_index.tolist()
    base, added = (rng.normal(f"observed.{name}", 4, index, data.shape) for name in ("base", "added"))
    torch.testing.assert_close(observed.images, data.train[:] + 0.3 * base + 0.4 * added, atol=1e-6, rtol=0)
    assert torch.equal(observed.labels, data.train_labels)
    assert observed.classes == 10


@pytest.mark.parametrize("keep_clean", [False, True])
def test_large_sets_are_observed_as_they_are_read_with_the_same_bits(data, monkeypatch, keep_clean):
    levels = np.where(np.arange(300) % 3 == 0, np.nan, 0.4 + np.arange(300) / 1000).astype(np.float32)
    own = dataclasses.replace(data, train_sigma=levels)
    config = ObservedConfig(sigma=0.5, base_sigma=0.2, clean_fraction=0.1)
    kept = observe(own, config, keep_clean)
    monkeypatch.setattr(observed_module, "KEPT", 0)
    lazy = observe(own, config, keep_clean)
    assert kept.noise is None
    assert lazy.noise is not None
    assert torch.equal(kept.clean, data.train[:]) if keep_clean else kept.clean is None
    assert (len(lazy), lazy.classes) == (300, 10)
    order = np.random.default_rng(0).permutation(300)
    parts = [order[k : k + 37] for k in range(0, 300, 37)]
    with ThreadPoolExecutor(3) as pool:
        for rows, read in zip(parts, pool.map(lazy.read, parts), strict=True):
            for mine, theirs in zip(read, kept.read(rows), strict=True):
                assert mine is None if theirs is None else torch.equal(mine, theirs)


def test_the_first_share_in_training_order_is_observed_clean(data):
    """They are the images that data.train_size alone would keep; the others are as without the share."""
    mixed = observe(data, ObservedConfig(sigma=0.4, clean_fraction=0.1))
    assert (mixed.sigma == 0).tolist() == [True] * 30 + [False] * 270
    alone = load_data(DataConfig(train_size=30))
    assert torch.equal(mixed.images[:30], alone.train[:])
    assert torch.equal(mixed.images[30:], observe(data, ObservedConfig(sigma=0.4)).images[30:])
    assert torch.equal(observe(data, ObservedConfig(sigma=0.4, clean_fraction=1)).images, data.train[:])


def test_images_may_have_their_own_levels(data):
    levels = np.full(300, np.nan, dtype=np.float32)
    levels[100:200], levels[200:] = 0.8, 0
    own = observe(dataclasses.replace(data, train_sigma=levels), ObservedConfig(sigma=0.3, clean_fraction=0.1))
    expected = [0.0] * 30 + [0.3] * 70 + [0.8] * 100 + [0.0] * 100
    np.testing.assert_allclose(own.sigma, expected, rtol=1e-6)
    noise = own.images - data.train[:]
    for part, level in ((slice(0, 30), 0), (slice(30, 100), 0.3), (slice(100, 200), 0.8), (slice(200, 300), 0)):
        assert noise[part].std() == pytest.approx(level, rel=0.03)
    # and what an image gets does not depend on the levels of the others
    assert torch.equal(own.images[100:200], observe(data, ObservedConfig(sigma=0.8)).images[100:200])


def test_an_own_level_at_the_base_is_the_base_and_one_below_it_is_refused(data):
    levels = np.full(300, 0.2, dtype=np.float32)
    own = dataclasses.replace(data, train_sigma=levels)
    config = ObservedConfig(sigma=0.5, base_sigma=0.2)
    assert torch.equal(observe(own, config).images, observe(data, ObservedConfig(sigma=0.2, base_sigma=0.2)).images)
    levels[[40, 77]] = 0.1, 0
    name = data.name(int(data.train_index[40]))
    with pytest.raises(
        UserError, match=rf"{name}: its own noise level 0\.1 is below observed\.base_sigma=0\.2; .* 2 im"
    ):
        observe(own, config)
    clean = ObservedConfig(sigma=0.5, base_sigma=0.2, clean_fraction=0.3)
    assert (observe(own, clean).sigma[:90] == 0).all()  # the share wins over the column
