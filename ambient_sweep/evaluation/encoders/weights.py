"""Finding the published weights of encoders, and trusting them only by their hash."""

import os
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ambient_sweep.errors import UserError
from ambient_sweep.storage import new_file, sha256


@dataclass(frozen=True)
class Weights:
    """A published file of weights."""

    distance: str  # that needs them
    content: str  # what they are, for messages
    file: str  # its name in evaluation.weights_folder and in the cache
    url: str
    sha256: str
    key: str | None = None  # of the config, under which a file of any name can be given


def cache_folder() -> Path:
    """Where downloaded weights are kept: $XDG_CACHE_HOME/ambient-sweep, ~/.cache/ambient-sweep by default."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ambient-sweep"


def find_weights(weights: Weights, folder: str | None = None, given: str | None = None) -> Path:
    """The checked file: the one given, else in `folder`, else in the cache, else downloaded into it.

    Raises UserError, one line that says what to fetch and where to put it, where none of these works; a file that is
    there and is not the right one is an error, never passed over.
    """
    cached, label = cache_folder() / weights.file, weights.distance
    own = None if folder is None else Path(folder).expanduser()
    if own is not None and not own.is_dir():
        raise UserError(f"evaluation.weights_folder: {own} is not a folder; make it, or leave the key out")
    places = [cached] if own is None else [own / weights.file, cached]
    path = next((path for path in places if os.path.exists(path)), cached)
    if given is not None:
        path, label = Path(given).expanduser(), str(weights.key)
    elif not path.exists():
        _download(weights, cached, places[0])
    check_hash(path, weights.sha256, label, f"give {weights.content}, from {weights.url}")
    return path


def check_hash(path: Path, wanted: str, label: str, cure: str) -> None:
    """Raises UserError, which begins with `label` and ends with `cure`, unless the file has the SHA-256 `wanted`."""
    try:
        found = sha256(path)
    except OSError as error:
        raise UserError(f"{label}: {path}: cannot be read ({error.strerror}); {cure}") from None
    if found != wanted:
        raise UserError(f"{label}: {path} has sha256 {found[:12]}..., not {wanted[:12]}...; {cure}")


def _download(weights: Weights, cached: Path, place: Path) -> None:
    """Fetches the weights to `cached`, which appears only once they are complete and their hash is right."""
    try:
        with new_file(cached) as temporary:
            with temporary.open("wb") as file, urllib.request.urlopen(weights.url, timeout=60) as response:
                shutil.copyfileobj(response, file)
            found = sha256(temporary)
            if found != weights.sha256:
                raise OSError(f"the download has sha256 {found[:12]}..., expected {weights.sha256[:12]}...")
    except OSError as error:  # urllib's errors and timeouts are OSErrors too
        otherwise = "" if weights.key is None else f", or name the file in {weights.key}"
        raise UserError(
            f"{weights.distance} needs {weights.content}, and it cannot be downloaded ({error}); "
            f"fetch {weights.url} and put it at {place}{otherwise}"
        ) from None
