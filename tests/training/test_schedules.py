import pytest

from ambient_sweep.config import ConsistencyConfig, OptimizerConfig
from ambient_sweep.training.schedules import consistency_weight, learning_rate


def weights(**config):
    c = ConsistencyConfig(weight=2.0, **config)
    return [consistency_weight(c, p) for p in (0.0, 0.499, 0.5, 0.55, 0.6, 1.0)]


def test_consistency_weight():
    assert weights(start=0.5, ramp="step") == [0, 0, 2, 2, 2, 2]
    assert weights(start=0.5, ramp="linear", ramp_fraction=0.1) == pytest.approx([0, 0, 0, 1, 2, 2])
    assert weights(start=0.5, ramp="cosine", ramp_fraction=0.2) == pytest.approx([0, 0, 0, 0.29289, 1, 2], abs=1e-4)
    assert weights(start=0.5, ramp="linear", ramp_fraction=0) == [0, 0, 2, 2, 2, 2]


def test_learning_rate():
    cosine = OptimizerConfig(lr=1.0, warmup=0.2, schedule="cosine")
    assert [learning_rate(cosine, p) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    constant = OptimizerConfig(lr=1.0, warmup=0, schedule="constant")
    assert [learning_rate(constant, p) for p in (0, 0.5, 1)] == [1, 1, 1]
