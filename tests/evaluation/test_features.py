from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.features import Mapped, cached_features

ROWS = torch.arange(40, dtype=torch.float32).view(20, 2)


class Encoded:
    """Batches of ROWS, and how often they were asked for."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Iterator[Tensor]:
        self.times += 1
        return iter(torch.split(ROWS, 7))


def test_computed_once_per_images_and_encoder(tmp_path: Path) -> None:
    encoded = Encoded()
    for fingerprint, identity, times in (("a", "x", 1), ("a", "x", 1), ("b", "x", 2), ("a", "y", 3)):
        found = cached_features(tmp_path / "deep", fingerprint, identity, 20, encoded)
        assert np.array_equal(found, ROWS.numpy())
        assert encoded.times == times
    assert len(list((tmp_path / "deep").glob("*.npy"))) == 3
    assert (tmp_path / "deep").stat().st_mode & 0o077 == 0
    assert np.array_equal(cached_features(None, "a", "x", 20, encoded), ROWS.numpy())


@pytest.mark.parametrize("damage", ["empty", "cut off", "a bit flipped", "no hash"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    encoded = Encoded()
    cached_features(tmp_path, "a", "x", 20, encoded)
    (file,) = tmp_path.glob("*.npy")
    content = file.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes({"empty": b"", "cut off": content[:-8], "a bit flipped": flipped, "no hash": content}[damage])
    if damage == "no hash":
        next(tmp_path.glob("*.sha256")).unlink()
    assert np.array_equal(cached_features(tmp_path, "a", "x", 20, encoded), ROWS.numpy())
    assert encoded.times == 2


def test_an_encoder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Tensor]:
        yield ROWS[:7]
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        cached_features(tmp_path, "a", "x", 20, broken)
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .*--no-cache"):
        cached_features(tmp_path / "file" / "cache", "a", "x", 20, Encoded())


def test_mapped_rows_are_tensors_of_the_shape_asked_for(tmp_path: Path) -> None:
    mapped = Mapped(cached_features(tmp_path, "a", "x", 20, Encoded()), (1, 2))
    assert len(mapped) == 20
    assert torch.equal(mapped[3:5], ROWS[3:5].view(2, 1, 2))
