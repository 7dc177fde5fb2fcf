"""The exponential average: its half-life in images, whatever the batch size, and its update in place."""

import pytest

from ambient_sweep.diffusion.ema import ema_decay


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
