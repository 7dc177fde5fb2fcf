import sys

import pytest
import torch
from torch import Tensor

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import wilson
from ambient_sweep.evaluation.neighbours import ApproximateIndex, approximate, nearest


def clusters(seed: int, n: int) -> Tensor:
    """Points around 30 centres, the same for every seed."""
    centres = 5 * torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    return centres[torch.randint(0, 30, (n,), generator=generator)] + torch.randn(n, 16, generator=generator)


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.fixture(scope="module")
def index() -> ApproximateIndex:
    return ApproximateIndex(clusters(1, 4000), lists=40, probes=4)


def test_with_all_cells_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "READ", 16 * 100)
    targets, queries = clusters(1, 600).reshape(-1, 4, 2, 2), clusters(2, 100).reshape(-1, 4, 2, 2)
    whole = ApproximateIndex(targets, lists=12, probes=12)
    assert same(whole.nearest(queries, 5), nearest(queries, targets, 5))
    assert whole.recall(queries, 5).value == 1


def test_what_it_finds_has_its_exact_distance_and_copies_are_found(index: ApproximateIndex) -> None:
    targets = clusters(1, 4000)
    copies = index.nearest(targets[:50], 1)
    assert (copies[0] == 0).all()
    assert copies[1][:, 0].tolist() == [*range(50)]
    queries = clusters(3, 200)
    distances, indices = index.nearest(queries, 3)
    true = (queries[:, None].double() - targets[indices].double()).norm(dim=2)
    torch.testing.assert_close(distances, true, rtol=1e-12, atol=0)
    assert (distances.diff(dim=1) >= 0).all()


def test_recall_is_the_share_of_queries_answered_as_exactly() -> None:
    targets, queries = torch.rand(3000, 16, generator=torch.Generator().manual_seed(0)), clusters(2, 300) / 10
    poor = ApproximateIndex(targets, lists=100, probes=2)
    right = (poor.nearest(queries, 2)[1] == nearest(queries, targets, 2)[1]).all(1)
    measure = poor.recall(queries, 2, sample=300)
    assert measure.value == right.double().mean() < 1
    assert (measure.low, measure.high) == wilson(int(right.sum()), 300)
    fewer = poor.recall(queries, 2, sample=50)
    assert fewer.n == 50
    assert fewer == poor.recall(queries, 2, sample=50)


def test_the_same_seed_gives_the_same_index(index: ApproximateIndex) -> None:
    again = ApproximateIndex(clusters(1, 4000), lists=40, probes=4)
    queries = clusters(2, 200)
    assert same(index.nearest(queries, 2), again.nearest(queries, 2))


def test_queries_whose_cells_hold_too_few_are_answered_exactly() -> None:
    targets, queries = clusters(1, 200), clusters(2, 10)
    sparse = ApproximateIndex(targets, lists=100, probes=1)
    assert same(sparse.nearest(queries, 150), nearest(queries, targets, 150))


def test_refuses_what_it_cannot_answer(index: ApproximateIndex) -> None:
    with pytest.raises(ValueError, match="k=4001 of 4000"):
        index.nearest(clusters(2, 1), 4001)
    with pytest.raises(ValueError, match="non-finite"):
        index.nearest(torch.full((1, 16), torch.nan), 1)


def test_without_faiss_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'ambient-sweep\[faiss\]', or search exactly"):
        ApproximateIndex(clusters(1, 10))
