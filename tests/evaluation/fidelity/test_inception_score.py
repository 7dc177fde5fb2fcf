import numpy as np
import pytest
import torch

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity import inception_score


def test_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 5)))
    one, ten = (isc_features_to_metric(logits, splits=splits)["inception_score_mean"] for splits in (1, 10))
    assert inception_score(logits, 1).value == pytest.approx(one, rel=1e-9)
    measure = inception_score(logits)
    assert measure.value == pytest.approx(ten, rel=1e-3)  # other parts of the same images
    assert measure.low < measure.value < measure.high


def test_closed_forms() -> None:
    sure = torch.log(torch.eye(8, dtype=torch.float64)).repeat(50, 1)  # probabilities 0 and 1, as logarithms
    assert inception_score(sure, 1).value == pytest.approx(8)  # as many as there are classes
    assert inception_score(torch.ones(40, 8)).value == pytest.approx(1)
    assert inception_score(sure[:1].repeat(40, 1)).value == pytest.approx(1)  # one class only


def test_parts_do_not_follow_the_order_of_the_images() -> None:
    by_class = torch.log(torch.eye(4, dtype=torch.float64)).repeat_interleave(100, 0)
    assert inception_score(by_class, 4).value > 3.9
    assert inception_score(by_class, 4) == inception_score(by_class, 4)
    assert inception_score(by_class, 4, seed=1) != inception_score(by_class, 4)


def test_bad_input_is_refused_in_one_line() -> None:
    with pytest.raises(AmbientSweepError, match="at least 10 images, one for each part, not 9"):
        inception_score(torch.zeros(9, 3))
    with pytest.raises(AmbientSweepError, match="finite"):
        inception_score(torch.full((10, 3), float("nan")))
    with pytest.raises(ValueError, match="0 splits"):
        inception_score(torch.zeros(9, 3), 0)
