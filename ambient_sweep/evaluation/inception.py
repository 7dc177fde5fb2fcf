"""Finding clean-fid's Inception weights, and trusting them only by their hash."""

import hashlib
import os
import tempfile
import urllib.request
from pathlib import Path

from ambient_sweep.errors import UserError

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where downloaded weights are kept: $XDG_CACHE_HOME/ambient-sweep, ~/.cache/ambient-sweep by default."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ambient-sweep"


def inception_weights(given: str | None) -> Path:
    """The checked weights file: the one given, else the cached one, else downloaded into the cache.

    Raises UserError, one line that says what to fetch and where to put it, where none of these works.
    """
    path = cache_folder() / INCEPTION_FILE if given is None else Path(given).expanduser()
    if given is None and not path.exists():
        _download(path)
    key = "evaluation.distances: fid" if given is None else f"evaluation.inception_weights: {path}"
    try:
        found = file_sha256(path)
    except OSError as error:
        raise UserError(f"{key}: cannot be read ({error.strerror}); fetch {INCEPTION_URL} and name that file") from None
    if found != INCEPTION_SHA256:
        raise UserError(
            f"{key}: {path} is not clean-fid's Inception (sha256 {found[:12]}..., not {INCEPTION_SHA256[:12]}...); "
            f"replace it by {INCEPTION_URL}"
        )
    return path


def _download(path: Path) -> None:
    """Fetches the weights to `path`, which appears only once they are complete and their hash is right."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(INCEPTION_URL, timeout=60) as response:
            while chunk := response.read(2**20):
                file.write(chunk)
        found = file_sha256(temporary)
        if found != INCEPTION_SHA256:
            raise OSError(f"what arrived has sha256 {found[:12]}..., expected {INCEPTION_SHA256[:12]}...")
        os.replace(temporary, path)
    except OSError as error:  # urllib's errors and timeouts are OSErrors too
        raise UserError(
            f"evaluation.distances: fid needs clean-fid's Inception weights, and they cannot be downloaded ({error}); "
            f"fetch {INCEPTION_URL} and put it at {path}, or name the file in evaluation.inception_weights"
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
