import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from ambient_sweep.evaluation import neighbours
from ambient_sweep.evaluation.neighbours import nearest


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [50, 1000, 2**23])
def test_same_as_brute_force_in_scikit_learn(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    queries, targets = normal(0, 70, 3, 4, 4), normal(1, 90, 3, 4, 4)
    theirs = NearestNeighbors(algorithm="ball_tree").fit(targets.flatten(1).double().numpy())
    expected_distances, expected_indices = theirs.kneighbors(queries.flatten(1).double().numpy(), 3)
    distances, indices = nearest(queries, targets, 3)
    np.testing.assert_allclose(distances.numpy(), expected_distances, rtol=1e-12)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)


def test_exact_zeros_stay_zeros_where_cdist_loses_them() -> None:
    targets = 100 + normal(0, 200, 256)
    lost = torch.cdist(targets, targets, compute_mode="use_mm_for_euclid_dist").diagonal()
    assert (lost > 0).any()  # the trap
    distances, indices = nearest(targets, targets, 1)
    assert (distances == 0).all()
    assert torch.equal(indices[:, 0], torch.arange(200))


def test_order_is_right_far_below_the_rounding_of_the_product() -> None:
    offset = 1e6  # |q|^2 is 1e13, so the product form sees nothing of squared distances of 1e-5
    targets = offset + 1e-3 * normal(0, 200, 10).double()
    queries = offset + 1e-3 * normal(1, 20, 10).double()
    expected = (queries[:, None] - targets).norm(dim=2).sort(1)
    distances, indices = nearest(queries, targets, 3)
    assert torch.equal(indices, expected.indices[:, :3])
    torch.testing.assert_close(distances, expected.values[:, :3])


def test_ties_go_to_the_lowest_index_however_many_there_are() -> None:
    targets = torch.zeros(60, 5)
    targets[::2] = 1.0
    distances, indices = nearest(torch.zeros(2, 5), targets, 4)
    assert indices.tolist() == [[1, 3, 5, 7]] * 2
    assert (distances == 0).all()
    assert nearest(torch.full((1, 5), 0.5), targets, 3)[1].tolist() == [[0, 1, 2]]


def test_distances_are_not_squared() -> None:
    distances, _ = nearest(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), 1)
    assert distances.item() == 5


def test_refuses_what_it_cannot_answer() -> None:
    with pytest.raises(ValueError, match="k=3 of 2"):
        nearest(torch.zeros(1, 2), torch.zeros(2, 2), 3)
    with pytest.raises(ValueError, match="targets of"):
        nearest(torch.zeros(1, 2), torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match="non-finite"):
        nearest(torch.tensor([[float("nan")]]), torch.zeros(2, 1), 1)
    assert nearest(torch.zeros(0, 2), torch.zeros(3, 2), 1)[0].shape == (0, 1)
