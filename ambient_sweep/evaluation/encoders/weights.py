"""Finding the published weights of encoders, and trusting them only by their hash."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ambient_sweep.errors import UserError
from ambient_sweep.storage import sha256


@dataclass(frozen=True)
class Weights:
    """A published file of weights."""

    distance: str  # that needs them
    content: str  # what they are, for messages
    file: str  # its name in evaluation.weights_folder and in the cache
    url: str
    sha256: str


def cache_folder() -> Path:
    """Where downloaded weights are kept: $XDG_CACHE_HOME/ambient-sweep, ~/.cache/ambient-sweep by default."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ambient-sweep"


def find_weights(weights: Weights, folder: str | None = None) -> Path:
    """The checked file: in `folder`, else in the cache, else downloaded into it.

    Raises UserError, one line that says what to fetch and where to put it, where none of these works; a file that is
    there and is not the right one is an error, never passed over.
    """
    cached = cache_folder() / weights.file
    own = None if folder is None else Path(folder).expanduser()
    if own is not None and not own.is_dir():
        raise UserError(f"evaluation.weights_folder: {own} is not a folder; make it, or leave the key out")
    places = [cached] if own is None else [own / weights.file, cached]
    path = next((path for path in places if os.path.exists(path)), cached)
    if not path.exists():
        _download(weights, cached, places[0])
    check_hash(path, weights.sha256, weights.distance, f"give {weights.content}, from {weights.url}")
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
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(weights.url, str(cached), weights.sha256, progress=False)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; RuntimeError: another hash
        raise UserError(
            f"{weights.distance} needs {weights.content}, and it cannot be downloaded ({error}); "
            f"fetch {weights.url} and put it at {place}"
        ) from None
