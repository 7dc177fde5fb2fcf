import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.cache import Mapped, cached_features

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


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_made_again(tmp_path: Path, content: bytes | None) -> None:
    encoded = Encoded()
    cached_features(tmp_path, "a", "x", 20, encoded)
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:-8] if content is None else content)
    assert np.array_equal(cached_features(tmp_path, "a", "x", 20, encoded), ROWS.numpy())
    assert encoded.times == 2


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    encoded = Encoded()
    cached_features(tmp_path, "a", "x", 20, encoded)
    (file,) = tmp_path.glob("*.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert np.array_equal(cached_features(tmp_path, "a", "x", 20, encoded), ROWS.numpy())
    assert encoded.times == 2


def test_a_file_without_its_hash_is_made_again(tmp_path: Path) -> None:
    encoded = Encoded()
    cached_features(tmp_path, "a", "x", 20, encoded)
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


@pytest.mark.parametrize("on_disk", [True, False])
def test_mapped_rows_and_shards_survive_a_pickle(tmp_path: Path, on_disk: bool) -> None:
    array = cached_features(tmp_path if on_disk else None, "a", "x", 20, Encoded())
    mapped = Mapped(array, (1, 2))
    assert torch.equal(mapped[3:5], ROWS[3:5].view(2, 1, 2))
    shards = mapped.shards(3)
    assert [len(shard) for shard in shards] == [7, 7, 6]
    copies = [pickle.loads(pickle.dumps(shard)) for shard in shards]  # noqa: S301
    assert torch.equal(torch.cat([copy[0 : len(copy)] for copy in copies]), ROWS.view(20, 1, 2))
    assert torch.equal(copies[1][2:4], ROWS[9:11].view(2, 1, 2))
    assert not on_disk or len(pickle.dumps(mapped)) < 400  # a path, no rows
