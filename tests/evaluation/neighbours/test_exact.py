import itertools

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ambient_sweep.evaluation.neighbours import Targets, exact, merge, nearest, nearest_with_flips
from ambient_sweep.evaluation.neighbours.exact import squared_distances


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def brute(queries: Tensor, targets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """One pair at a time; a stable sort leaves ties to the lower index."""
    q, t = queries.flatten(1).double(), targets.flatten(1).double()
    rows = [squared_distances(row.expand_as(t), t).sqrt() for row in q]
    order = torch.stack(rows).sort(dim=1, stable=True)
    return order.values[:, :k], order.indices[:, :k]


@pytest.fixture(params=[(1024, 16384, 2**23, 2**19), (7, 16, 2**23, 2**19), (64, 64, 200, 8)], ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("QUERIES", "TARGETS", "ELEMENTS", "CANDIDATES"), request.param, strict=True):
        monkeypatch.setattr(exact, name, value)


@pytest.mark.usefixtures("blocks")
def test_same_as_brute_force_in_scikit_learn() -> None:
    queries, targets = normal(0, 70, 3, 4, 4), normal(1, 90, 3, 4, 4)
    theirs = NearestNeighbors(algorithm="brute", metric="euclidean").fit(targets.flatten(1).double().numpy())
    expected_distances, expected_indices = theirs.kneighbors(queries.flatten(1).double().numpy(), 3)
    distances, indices = nearest(queries, targets, 3)
    np.testing.assert_allclose(distances.numpy(), expected_distances, rtol=1e-12)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)


def test_same_as_brute_force_in_scikit_learn_at_some_size() -> None:
    basis = normal(2, 20, 300)
    queries, targets = (
        normal(seed, n, 20) @ basis + 0.1 * normal(seed + 2, n, 300) for seed, n in ((0, 300), (1, 3000))
    )
    theirs = NearestNeighbors(algorithm="brute").fit(targets.double().numpy())
    expected_distances, expected_indices = theirs.kneighbors(queries.double().numpy(), 50)
    distances, indices = nearest(queries, targets, 50)
    np.testing.assert_allclose(distances.numpy(), expected_distances, rtol=1e-10)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)


def hard(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)

    def integers(n: int, high: int) -> Tensor:
        return torch.randint(0, high, (n, 6), generator=generator).float()

    match name:
        case "ties and duplicates":
            return integers(50, 3), integers(400, 3)
        case "all equal":
            return torch.ones(40, 6), torch.ones(300, 6)
        case "signed zeros":
            return torch.zeros(5, 6), torch.cat([-torch.zeros(50, 6), torch.zeros(50, 6)])
        case "huge offset":
            return 1e7 + normal(0, 40, 6).double(), 1e7 + normal(1, 300, 6).double()
        case "far from all targets":
            return 1e6 + normal(0, 40, 6), normal(1, 300, 6)
        case "targets of many scales":
            return normal(0, 40, 6), normal(1, 300, 6) * 10 ** torch.linspace(-9, 12, 300)[:, None]
        case "nearer and nearer":
            return normal(0, 40, 6), normal(1, 300, 6) * torch.linspace(100, 0, 300)[:, None]
        case "subnormal":
            return 1e-40 * normal(0, 40, 6), 1e-40 * normal(1, 300, 6)
        case "squares overflow float32":
            return 1e25 * normal(0, 40, 6), 1e25 * normal(1, 300, 6)
        case _:
            images = torch.randint(0, 256, (300, 6), generator=generator).to(torch.uint8)
            return images[:40], images


HARD = [
    "ties and duplicates", "all equal", "signed zeros", "huge offset", "far from all targets", "targets of many scales",
    "nearer and nearer", "subnormal", "squares overflow float32", "bytes, queries among the targets",
]  # fmt: skip


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("name", "k"), [*itertools.product(HARD, [1, 3, 40])])
def test_same_bits_as_one_pair_at_a_time(name: str, k: int) -> None:
    queries, targets = hard(name)
    distances, indices = nearest(queries, targets, k)
    expected = brute(queries, targets, k)
    assert torch.equal(distances, expected[0])
    assert torch.equal(indices, expected[1])


def test_all_targets_in_order() -> None:
    queries, targets = normal(0, 5, 6), normal(1, 77, 6)
    assert torch.equal(nearest(queries, targets, 77)[1], brute(queries, targets, 77)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-3, 1e12])
def test_the_bound_covers_what_products_get_wrong(dtype: torch.dtype, scale: float) -> None:
    """The true nearest is named, and little else, by products whose error is many times the gap between distances."""
    size = 800
    queries = scale * normal(0, 30, size).double()
    targets = (queries[:, None] + scale * 1e-4 * normal(1, 30, 20, size)).flatten(0, 1)
    block = exact._Block(targets, targets.mean(0), 1)
    best = exact._Best(torch.full((30, 1), torch.inf, dtype=torch.float64), torch.full((30, 1), -1))
    mask = exact._nominated(queries, block, best, dtype)
    assert mask is not None
    found = brute(queries, targets, 1)[1]
    assert mask.gather(1, found).all()
    assert mask.sum() <= 20 * 30
    limit = nearest(queries, targets, 1)
    mask = exact._nominated(queries, block, exact._Best(limit[0] ** 2, limit[1]), dtype)
    assert mask is not None
    assert mask.gather(1, found).all()


def test_exact_zeros_stay_zeros_where_cdist_loses_them() -> None:
    targets = 100 + normal(0, 200, 256)
    lost = torch.cdist(targets, targets, compute_mode="use_mm_for_euclid_dist").diagonal()
    assert (lost > 0).any()  # the trap
    distances, indices = nearest(targets, targets, 1)
    assert (distances == 0).all()
    assert torch.equal(indices[:, 0], torch.arange(200))


def test_a_pair_has_the_same_bits_whatever_is_computed_beside_it() -> None:
    a, b = normal(0, 9, 40_001).double(), normal(1, 9, 40_001).double()
    together = squared_distances(a, b)
    assert torch.equal(together, torch.cat([squared_distances(a[i : i + 1], b[i : i + 1]) for i in range(9)]))
    torch.testing.assert_close(together, (a - b).square().sum(1), rtol=1e-13, atol=0)
    assert squared_distances(a[:, :0], b[:, :0]).tolist() == [0.0] * 9


class OnDemand:
    """Targets that are never in memory together."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.most = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice, /) -> Tensor:
        self.most = max(self.most, len(self.rows[rows]))
        return self.rows[rows]


def test_targets_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "TARGETS", 32)
    queries, targets = normal(0, 20, 3, 2, 2), normal(1, 300, 3, 2, 2)
    read: Targets = OnDemand(targets)
    assert same(nearest(queries, read, 4), nearest(queries, targets, 4))
    assert read.most == 32  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["ties and duplicates", "huge offset"])
def test_parts_searched_apart_give_what_one_search_gives(name: str) -> None:
    queries, targets = hard(name)
    cuts = [0, 3, 150, len(targets)]
    parts = []
    for start, end in itertools.pairwise(cuts):
        distances, indices = nearest(queries, targets[start:end], min(7, end - start))
        parts.append((distances, indices + start))
    for order in (parts, parts[::-1]):
        assert same(merge(order, 7), nearest(queries, targets, 7))


def test_settings_of_the_process_do_not_matter_and_stay() -> None:
    queries, targets = normal(0, 50, 64), normal(1, 500, 64)
    expected = nearest(queries, targets, 3)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = nearest(queries, targets, 3)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert same(found, expected)


def test_mirrored_targets_count_once_and_by_the_nearer() -> None:
    generator = torch.Generator().manual_seed(0)
    images, targets = (torch.randint(0, 4, (n, 1, 2, 3), generator=generator).float() for n in (40, 120))
    plain, mirrored = (
        (images[:, None] - t).flatten(2).double().square().sum(2).sqrt() for t in (targets, targets.flip(-1))
    )
    expected = torch.minimum(plain, mirrored).sort(dim=1, stable=True)
    distances, indices = nearest_with_flips(images, targets, 5)
    torch.testing.assert_close(distances, expected.values[:, :5])
    assert torch.equal(indices, expected.indices[:, :5])
    flipped = nearest_with_flips(targets.flip(-1), targets, 1)
    assert (flipped[0] == 0).all()


def test_distances_are_not_squared() -> None:
    distances, _ = nearest(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), 1)
    assert distances.item() == 5


def test_refuses_what_it_cannot_answer() -> None:
    with pytest.raises(ValueError, match="k=3 of 2"):
        nearest(torch.zeros(1, 2), torch.zeros(2, 2), 3)
    with pytest.raises(ValueError, match="k=0 of 2"):
        nearest(torch.zeros(1, 2), torch.zeros(2, 2), 0)
    with pytest.raises(ValueError, match="targets of"):
        nearest(torch.zeros(1, 2), torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match="non-finite"):
        nearest(torch.tensor([[float("nan")]]), torch.zeros(2, 1), 1)
    with pytest.raises(ValueError, match="non-finite"):
        nearest(torch.zeros(1, 1), torch.tensor([[0.0], [torch.inf]]), 1)
    with pytest.raises(ValueError, match="too large to square"):
        nearest(torch.zeros(1, 1).double(), torch.tensor([[1e200]], dtype=torch.float64), 1)
    assert nearest(torch.zeros(0, 2), torch.zeros(3, 2), 1)[0].shape == (0, 1)
    assert nearest(torch.zeros(2, 0), torch.zeros(3, 0), 2)[1].tolist() == [[0, 1]] * 2
