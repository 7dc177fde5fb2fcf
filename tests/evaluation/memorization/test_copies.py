import numpy as np
import pytest
import torch

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import wilson
from ambient_sweep.evaluation.memorization.copies import (
    LOCAL,
    local_distances,
    mem_excess,
    mem_ratio,
    null_threshold,
    thumbnails,
)


def test_thumbnails_are_area_means() -> None:
    images = torch.randint(0, 256, (3, 3, 48, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = (images.double() / 127.5 - 1).reshape(3, 3, 16, 3, 16, 2).mean((3, 5))
    torch.testing.assert_close(thumbnails(images), expected.float())


def test_mem_ratio_by_hand() -> None:
    distances = torch.tensor(
        [
            [0.0, 1.0],  # an exact copy
            [0.0, 0.0],  # an exact copy of an image that is there twice
            [0.33, 1.0],  # a copy
            [0.34, 1.0],  # none
            [1.0, 3.0],  # at the border: none
            [0.2, 0.2],  # none: as near to both
        ],
        dtype=torch.float64,
    )
    measure = mem_ratio(distances)
    assert (measure.value, measure.n) == (0.5, 6)
    assert (measure.low, measure.high) == wilson(3, 6)


def test_mem_excess_by_hand() -> None:
    distances = torch.tensor([0.0, 0.5, 0.99, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], dtype=torch.float64)
    heldout = torch.cat([torch.zeros(50), torch.linspace(1, 2, 99)]).double()  # 50 of them are training images
    measure = mem_excess(distances, heldout, 0.01)
    low, high = wilson(3, 10)
    assert (measure.value, measure.low, measure.high) == pytest.approx((0.29, low - 0.01, high - 0.01))
    assert measure.n == 10


@pytest.mark.parametrize(("count", "quantile"), [(100, 0.01), (150, 0.013), (20, 0.1)])
def test_fresh_images_fall_below_the_threshold_as_often_as_the_quantile_says(count: int, quantile: float) -> None:
    draws = np.random.default_rng(0).exponential(size=(4000, count))
    shares = [1 - np.exp(-null_threshold(torch.from_numpy(row), quantile)) for row in draws]
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - quantile) < 4 * error + 0.02 * quantile
    usual = [1 - np.exp(-np.quantile(row, quantile)) for row in draws]  # numpy's default gives false alarms
    assert np.mean(usual) > quantile + 4 * error + 0.02 * quantile


def test_too_few_held_out_images_for_the_quantile() -> None:
    distances = torch.linspace(1, 2, 99, dtype=torch.float64)
    assert null_threshold(distances, 0.01) == 1
    distances[0] = 0  # a training image
    with pytest.raises(
        UserError, match=r"evaluation.quantile: 0\.01 needs at least 99 held-out images .* there are 98"
    ):
        mem_excess(distances, distances, 0.01)


def test_local_distances_by_hand() -> None:
    distances = torch.tensor([[0.0] * 7, [0.0, 1, 1, 1, 1, 1, 9], [2.0, 3, 4, 5, 6, 7, 1000], [1.0, 1, 1, 1, 1, 1, 1]])
    assert local_distances(distances).tolist() == pytest.approx([0, 0, 0.4, 1])
    assert local_distances(distances[:, : LOCAL + 1]).tolist() == local_distances(distances).tolist()
    assert local_distances(distances[2:3, :3]).tolist() == pytest.approx([2 / 3.5])
