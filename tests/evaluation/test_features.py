from pathlib import Path

import pytest
import torch
from torch import Tensor

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.evaluation.features import Encoders, cached_features

ROWS = torch.arange(40, dtype=torch.float32).view(20, 2)


class Encoded:
    """ROWS, and how often they were asked for."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Tensor:
        self.times += 1
        return ROWS


def test_computed_once_per_images_and_encoder(tmp_path: Path) -> None:
    encoded, folder = Encoded(), tmp_path / "deep"
    for fingerprint, identity, times in (("a", "x", 1), ("a", "x", 1), ("b", "x", 2), ("a", "y", 3)):
        assert torch.equal(cached_features(folder, fingerprint, identity, encoded), ROWS)
        assert encoded.times == times
    assert len(list(folder.glob("*.npy"))) == 3
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["empty", "cut off", "a bit flipped", "no hash"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    encoded = Encoded()
    cached_features(tmp_path, "a", "x", encoded)
    (file,) = tmp_path.glob("*.npy")
    content = file.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes({"empty": b"", "cut off": content[:-8], "a bit flipped": flipped, "no hash": content}[damage])
    if damage == "no hash":
        next(tmp_path.glob("*.sha256")).unlink()
    assert torch.equal(cached_features(tmp_path, "a", "x", encoded), ROWS)
    assert encoded.times == 2


def test_an_encoder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Tensor:
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        cached_features(tmp_path, "a", "x", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .*--no-cache"):
        cached_features(tmp_path / "file" / "cache", "a", "x", Encoded())


def test_features_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ambient_sweep.evaluation.features.encode", lambda *_: torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(AmbientSweepError, match="fd_pixels: the encoder pixels gives features that are not finite"):
        Encoders(EvaluationConfig()).encode("fd_pixels", [torch.zeros(1, 1, 8, 8)], "cpu")
