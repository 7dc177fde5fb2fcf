"""Finding the published weights of encoders, and trusting them only by their hash."""

import os
import re
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
    sha256: str | None  # None: not known for certain; the user vouches for the file by one beside it, FILE.sha256
    key: str | None = None  # of the config, under which a file of any name can be given


def cache_folder() -> Path:
    """Where downloaded weights are kept: $XDG_CACHE_HOME/ambient-sweep, ~/.cache/ambient-sweep by default."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ambient-sweep"


def find_weights(weights: Weights, folder: str | None = None, given: str | None = None) -> tuple[Path, str]:
    """The checked file and its SHA-256: the one given, else in `folder`, else in the cache, else downloaded into it.

    Raises UserError, one line that says what to fetch and where to put it, where none of these works; a file that is
    there and is not the right one is an error, never passed over.
    """
    if given is not None:
        path = Path(given).expanduser()
        return path, _checked(weights, path, f"{weights.key}: {path}")
    cached = cache_folder() / weights.file
    places = [cached] if folder is None else [_existing(folder) / weights.file, cached]
    found = next((path for path in places if os.path.exists(path)), None)
    if found is None:
        _download(weights, cached, places[0])
    path = found or cached
    return path, _checked(weights, path, f"{weights.distance}: {path}")


def _existing(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"evaluation.weights_folder: {path} is no folder; make it, or leave the key out")
    return path


def _checked(weights: Weights, path: Path, label: str) -> str:
    """The file's SHA-256, which is the one it should have."""
    wanted = weights.sha256 or _vouched(weights, path)
    try:
        found = sha256(path)
    except OSError as error:
        raise UserError(f"{label}: cannot be read ({error.strerror}); fetch {weights.url} and name that file") from None
    if found != wanted:
        raise UserError(
            f"{label} is not {weights.content} (sha256 {found[:12]}..., not {wanted[:12]}...); "
            f"replace it by {weights.url}"
        )
    return found


def _vouched(weights: Weights, path: Path) -> str:
    """The hash that the user wrote beside the file, in the form of sha256sum."""
    beside = path.with_name(f"{path.name}.sha256")
    advice = f"compare the file's hash with the one at its source, then: sha256sum {path} > {beside}"
    try:
        first = beside.read_text(encoding="utf-8").split()[0]
    except (OSError, UnicodeDecodeError, IndexError):
        raise UserError(f"{weights.distance}: {beside} is missing or cannot be read; {advice}") from None
    if not re.fullmatch("[0-9a-f]{64}", first):
        raise UserError(f"{weights.distance}: {beside} does not begin with a SHA-256 in hex; {advice}")
    return first


def _download(weights: Weights, cached: Path, place: Path) -> None:
    """Fetches the weights to `cached`, which appears only once they are complete and their hash is right."""
    if weights.sha256 is None:
        raise UserError(
            f"{weights.distance} needs {weights.content}, which is not downloaded, for its hash is not known here: fetch "
            f"{weights.url}, put it at {place}, and write its hash with: sha256sum {place} > {place}.sha256"
        )
    try:
        with new_file(cached) as temporary:
            with temporary.open("wb") as file, urllib.request.urlopen(weights.url, timeout=60) as response:
                shutil.copyfileobj(response, file)
            found = sha256(temporary)
            if found != weights.sha256:
                raise OSError(f"what arrived has sha256 {found[:12]}..., expected {weights.sha256[:12]}...")
    except OSError as error:  # urllib's errors and timeouts are OSErrors too
        otherwise = "" if weights.key is None else f", or name the file in {weights.key}"
        raise UserError(
            f"{weights.distance} needs {weights.content}, and it cannot be downloaded ({error}); "
            f"fetch {weights.url} and put it at {place}{otherwise}"
        ) from None
