import itertools

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ambient_sweep.evaluation import neighbours
from ambient_sweep.evaluation.neighbours import bounded_squares, merge_flips, nearest, squared_distances


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute(queries: Tensor, targets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """One pair at a time; a stable sort leaves ties to the lower index."""
    q, t = queries.flatten(1).double(), targets.flatten(1).double()
    rows = [squared_distances(row.expand_as(t), t).sqrt() for row in q]
    order = torch.stack(rows).sort(dim=1, stable=True)
    return order.values[:, :k], order.indices[:, :k]


@pytest.fixture(params=[(1024, 4096, 2**22), (7, 16, 2**22), (64, 64, 200)], ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("QUERIES", "TARGETS", "ELEMENTS"), request.param, strict=True):
        monkeypatch.setattr(neighbours, name, value)


def test_same_as_brute_force_in_scikit_learn() -> None:
    basis = normal(2, 20, 300)
    queries, targets = (
        normal(seed, n, 20) @ basis + 0.1 * normal(seed + 2, n, 300) for seed, n in ((0, 300), (1, 3000))
    )
    theirs = NearestNeighbors(algorithm="brute").fit(targets.double().numpy())
    expected_distances, expected_indices = theirs.kneighbors(queries.double().numpy(), 50)
    distances, indices = nearest(queries, targets, 50)
    np.testing.assert_allclose(distances.numpy(), expected_distances, rtol=1e-10)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)


def integers(n: int, high: int) -> Tensor:
    return torch.randint(0, high, (n, 6), generator=torch.Generator().manual_seed(n))


HARD = {
    "ties and duplicates": (integers(50, 3), integers(400, 3)),
    "all equal": (torch.ones(40, 6), torch.ones(300, 6)),
    "signed zeros": (torch.zeros(5, 6), torch.cat([-torch.zeros(50, 6), torch.zeros(50, 6)])),
    "huge offset": (1e7 + normal(0, 40, 6).double(), 1e7 + normal(1, 300, 6).double()),
    "far from all targets": (1e6 + normal(0, 40, 6), normal(1, 300, 6)),
    "targets of many scales": (normal(0, 40, 6), normal(1, 300, 6) * 10 ** torch.linspace(-9, 12, 300)[:, None]),
    "nearer and nearer": (normal(0, 40, 6), normal(1, 300, 6) * torch.linspace(100, 0, 300)[:, None]),
    "subnormal": (1e-40 * normal(0, 40, 6), 1e-40 * normal(1, 300, 6)),
    "squares overflow float32": (1e25 * normal(0, 40, 6), 1e25 * normal(1, 300, 6)),
    "bytes, queries among the targets": (integers(300, 256)[:40].to(torch.uint8), integers(300, 256).to(torch.uint8)),
}


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("name", "k"), [*itertools.product(HARD, [1, 3, 40])])
def test_same_bits_as_one_pair_at_a_time(name: str, k: int) -> None:
    queries, targets = HARD[name]
    distances, indices = nearest(queries, targets, k)
    expected = brute(queries, targets, k)
    assert torch.equal(distances, expected[0])
    assert torch.equal(indices, expected[1])


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-3, 1e12])
def test_the_bound_covers_what_products_get_wrong(scale: float) -> None:
    """And leaves little in doubt, though the error of products is many times the gap between the distances."""
    size = 800
    queries = scale * normal(0, 30, size).double()
    targets = (queries[:, None] + scale * 1e-7 * normal(1, 30, 20, size)).flatten(0, 1)
    centre = targets.mean(0)
    squares, slack = bounded_squares(queries - centre, targets - centre)
    true = torch.stack([squared_distances(row.expand_as(targets), targets) for row in queries])
    assert ((squares - true).abs() <= slack).all()
    assert (slack < 1e-9 * size * scale**2).all()


def test_a_pair_has_the_same_bits_whatever_is_computed_beside_it() -> None:
    a, b = normal(0, 9, 40_001).double(), normal(1, 9, 40_001).double()
    together = squared_distances(a, b)
    assert torch.equal(together, torch.cat([squared_distances(a[i : i + 1], b[i : i + 1]) for i in range(9)]))
    torch.testing.assert_close(together, (a - b).square().sum(1), rtol=1e-13, atol=0)


def test_autocast_does_not_matter() -> None:
    queries, targets = normal(0, 50, 64), normal(1, 500, 64)
    expected = nearest(queries, targets, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest(queries, targets, 3)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_mirrored_targets_count_once_and_by_the_nearer() -> None:
    generator = torch.Generator().manual_seed(0)
    images, targets = (torch.randint(0, 4, (n, 1, 2, 3), generator=generator).float() for n in (40, 120))
    plain, mirrored = (
        (images[:, None] - t).flatten(2).double().square().sum(2).sqrt() for t in (targets, targets.flip(-1))
    )
    expected = torch.minimum(plain, mirrored).sort(dim=1, stable=True)
    found = merge_flips(nearest(images, targets, 5), nearest(images.flip(-1), targets, 5))
    torch.testing.assert_close(found, expected.values[:, :5])


@pytest.mark.parametrize("k", [0, 4])
def test_what_cannot_be_answered_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} of 3 targets"):
        nearest(torch.zeros(2, 2), torch.zeros(3, 2), k)
    assert nearest(torch.zeros(0, 2), torch.zeros(3, 2), 1)[0].shape == (0, 1)
