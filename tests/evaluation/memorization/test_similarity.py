import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import wilson
from ambient_sweep.evaluation.memorization.copies import mem_excess
from ambient_sweep.evaluation.memorization.similarity import (
    histogram_picture,
    histograms,
    nearest_similarity,
    normalised,
    sim_excess,
)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_same_as_the_largest_cosine_in_scikit_learn() -> None:
    features, train = 3 + normal(0, 80, 20), 3 + normal(1, 300, 20)
    expected = cosine_similarity(features.double().numpy(), train.double().numpy()).max(1)
    np.testing.assert_allclose(nearest_similarity(features, normalised(train)).numpy(), expected, atol=1e-6)


def test_sim_excess_is_mem_excess_of_one_minus_the_similarity() -> None:
    heldout = 1 - torch.linspace(0.1, 1, 199, dtype=torch.float64)
    similarities = torch.tensor([1.0, 0.95, 0.3, 0.2], dtype=torch.float64)
    measure = sim_excess(similarities, heldout, 0.01)
    assert measure == mem_excess(1 - similarities, 1 - heldout, 0.01)
    assert measure.value == 0.49
    with pytest.raises(UserError, match=r"needs at least 99 held-out images .* there are 50"):
        sim_excess(similarities, heldout[:50], 0.01)


def test_an_encoder_that_gives_equal_features_is_judged_by_their_share() -> None:
    heldout = torch.cat([torch.ones(50), torch.linspace(0, 0.9, 150)]).double()
    similarities = torch.cat([torch.ones(30), torch.full((70,), 0.95)]).double()
    low, high = wilson(30, 100)
    measure = sim_excess(similarities, heldout, 0.01)
    assert (measure.value, measure.low, measure.high) == pytest.approx((0.05, low - 0.25, high - 0.25))


def test_histograms_count_all_and_become_json_and_a_picture() -> None:
    generated, heldout = torch.linspace(-0.2, 1, 500).double(), torch.linspace(0, 0.9, 300).double()
    dumped = json.loads(json.dumps(histograms(generated, heldout)))
    assert (sum(dumped["generated"]), sum(dumped["heldout"])) == (500, 300)
    assert len(dumped["edges"]) == len(dumped["generated"]) + 1
    expected = np.histogram(generated.numpy(), dumped["edges"])[0].tolist()
    assert dumped["generated"] == expected
    picture = np.asarray(Image.open(io.BytesIO(histogram_picture(dumped, "an encoder"))).convert("RGB"))
    assert picture.std() > 10
    same = histograms(torch.ones(3).double(), torch.ones(2).double())
    assert (same["generated"][-1], same["heldout"][-1]) == (3, 2)
