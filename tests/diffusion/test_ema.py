"""The exponential average: its half-life in images, whatever the batch size, and its update in place."""

import pytest
import torch

from ambient_sweep.diffusion.ema import ema_decay, ema_update


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_half_is_forgotten_in_a_half_life(batch_size):
    halflife = 10_000
    images = 10**9  # far beyond the ramp-up
    assert ema_decay(images, batch_size, halflife, 0.1) ** (halflife / batch_size) == pytest.approx(0.5)


def test_the_half_life_begins_as_a_share_of_the_images_seen():
    assert ema_decay(640, 64, 10**9, 0.1) == pytest.approx(0.5)
    assert ema_decay(1280, 64, 10**9, 0.1) == pytest.approx(0.5**0.5)
    assert ema_decay(64, 64, 10**9, 0.1) == pytest.approx(2**-10)
    assert ema_decay(640, 64, 0, 0.1) == 0  # off: the average is the weights


def test_the_update_is_in_place_and_as_the_equation_says(generator):
    average, weights = ([torch.randn(n, generator=generator) for n in (3, 1, 40)] for _ in range(2))
    before, places = [a.clone() for a in average], [a.data_ptr() for a in average]
    ema_update(average, weights, 0.9)
    for a, b, w in zip(average, before, weights, strict=True):
        torch.testing.assert_close(a.double(), 0.9 * b.double() + 0.1 * w.double(), rtol=0, atol=1e-7)
    assert [a.data_ptr() for a in average] == places
    ema_update(average, weights, 0.0)
    assert all(torch.equal(a, w) for a, w in zip(average, weights, strict=True))
