import pytest
import torch

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.features import Encoders


def test_features_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ambient_sweep.evaluation.features.encode", lambda *_: torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(AmbientSweepError, match="fd_pixels: the encoder pixels gives features that are not finite"):
        Encoders(EvaluationConfig()).encode("fd_pixels", [torch.zeros(1, 1, 8, 8)], "cpu")
