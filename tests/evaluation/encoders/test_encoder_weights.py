import hashlib
import urllib.error
from dataclasses import replace
from pathlib import Path

import pytest

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.weights import Weights, cache_folder, find_weights

BYTES = b"weights of a network"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A file that can be fetched, an empty folder and an empty cache."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "published.pt").write_bytes(BYTES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sha256, url = hashlib.sha256(BYTES).hexdigest(), (tmp_path / "published.pt").as_uri()
    return Weights("fid", "the network", "network.pt", url, sha256)


def offline(*_: object, **__: object) -> None:
    raise urllib.error.URLError("no network")


def message_of(weights: Weights, folder: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find_weights(weights, folder and str(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_weights_are_downloaded_once_and_kept(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_weights(weights)
    assert path == cache_folder() / "network.pt"
    assert path.read_bytes() == BYTES
    assert list(cache_folder().iterdir()) == [path]
    monkeypatch.setattr("torch.hub.urlopen", offline)
    assert find_weights(weights) == path


def test_the_order_of_places(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.urlopen", offline)
    folder, cached = tmp_path / "folder", cache_folder() / "network.pt"
    in_folder = folder / "network.pt"
    cached.parent.mkdir(parents=True)
    for path in (in_folder, cached):
        path.write_bytes(BYTES)
    assert find_weights(weights, str(folder)) == in_folder
    in_folder.unlink()
    assert find_weights(weights, str(folder)) == cached


def test_no_network_says_what_to_fetch_and_where_to_put_it(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.urlopen", offline)
    message, folder = message_of(weights), tmp_path / "folder"
    for part in ("fid needs the network", weights.url, str(cache_folder() / "network.pt"), "no network"):
        assert part in message
    assert list(cache_folder().iterdir()) == []
    assert str(folder / "network.pt") in message_of(weights, folder)


def test_a_wrong_file_is_neither_kept_nor_passed_over(weights: Weights, tmp_path: Path) -> None:
    assert "invalid hash value" in message_of(replace(weights, sha256="0" * 64))
    assert list(cache_folder().iterdir()) == []
    find_weights(weights)  # now the cache has the right one
    wrong = tmp_path / "folder" / "network.pt"
    wrong.write_bytes(BYTES + b"!")
    message = message_of(weights, wrong.parent)
    assert message.startswith(f"fid: {wrong} has sha256 ")
    assert message.endswith(f"give the network, from {weights.url}")
