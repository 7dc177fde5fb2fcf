import hashlib
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders.weights import Weights, cache_folder, find_weights

BYTES = b"weights of a network"
SHA256 = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A file that can be fetched, and an empty cache."""
    published = tmp_path / "published.pt"
    published.write_bytes(BYTES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Weights("fid", "the network", "network.pt", published.as_uri(), SHA256, "evaluation.inception_weights")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> SimpleNamespace:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def message_of(weights: Weights, folder: str | None = None, given: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find_weights(weights, folder, given)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_cache_lies_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ambient-sweep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ambient-sweep"


def test_weights_are_downloaded_once_and_kept(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_weights(weights)
    assert path == cache_folder() / "network.pt"
    assert path.read_bytes() == BYTES
    assert list(cache_folder().iterdir()) == [path]
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("downloaded again"))
    assert find_weights(weights) == path


@pytest.mark.usefixtures("offline")
def test_the_order_of_places(weights: Weights, folder: Path, tmp_path: Path) -> None:
    given, in_folder, cached = tmp_path / "mine.bin", folder / "network.pt", cache_folder() / "network.pt"
    cached.parent.mkdir(parents=True)
    for path in (given, in_folder, cached):
        path.write_bytes(BYTES)
    assert find_weights(weights, str(folder), str(given)) == given
    assert find_weights(weights, str(folder)) == in_folder
    in_folder.unlink()
    assert find_weights(weights, str(folder)) == cached


@pytest.mark.usefixtures("offline")
def test_no_network_says_what_to_fetch_and_where_to_put_it(weights: Weights, folder: Path) -> None:
    message = message_of(weights)
    for part in ("fid needs the network", weights.url, str(cache_folder() / "network.pt"), "no network"):
        assert part in message
    assert "or name the file in evaluation.inception_weights" in message
    assert list(cache_folder().iterdir()) == []
    assert str(folder / "network.pt") in message_of(weights, str(folder))
    assert "name the file" not in message_of(replace(weights, key=None))


def test_a_wrong_download_is_not_kept(weights: Weights) -> None:
    Path(weights.url.removeprefix("file://")).write_bytes(b"an error page")
    assert "what arrived has sha256" in message_of(weights)
    assert list(cache_folder().iterdir()) == []


def test_a_wrong_file_is_never_passed_over(weights: Weights, folder: Path, tmp_path: Path) -> None:
    find_weights(weights)  # the cache has the right one
    wrong, absent = folder / "network.pt", tmp_path / "absent.pt"
    wrong.write_bytes(BYTES + b"!")
    cure = f"give the network, from {weights.url}"
    for message, said in (
        (message_of(weights, str(folder)), f"fid: {wrong} has sha256 "),
        (message_of(weights, given=str(wrong)), f"evaluation.inception_weights: {wrong} has sha256 "),
        (
            message_of(weights, given=str(absent)),
            f"evaluation.inception_weights: {absent}: cannot be read (No such file",
        ),
    ):
        assert message.startswith(said)
        assert message.endswith(cure)
