"""Sources of images: folder, zip, Parquet, arrays, CIFAR-10's files, scikit-learn's digits. See docs/data.md."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.arrays import open_array, open_digits
from ambient_sweep.data.sources.cifar10 import open_cifar10
from ambient_sweep.data.sources.files import SUFFIXES, open_tree
from ambient_sweep.data.sources.source import Source
from ambient_sweep.data.store import INFO_FILE
from ambient_sweep.errors import UserError

__all__ = ["Source", "open_source", "source_kind"]

Kind = Literal["folder", "zip", "parquet", "array", "cifar10", "store"]
_BY_SUFFIX: dict[str, Kind] = {
    ".zip": "zip", ".parquet": "parquet", ".npy": "array", ".npz": "array", ".bin": "cifar10",
}  # fmt: skip
_BY_FIRST_BYTES: dict[bytes, Kind] = {b"PK\x03\x04": "zip", b"PAR1": "parquet", b"\x93NUM": "array"}


def source_kind(path: Path) -> Kind:
    """The `data.source` that reads `path`. Raises UserError, which begins with the path, where there is no single one."""
    if not path.is_dir():
        try:
            with path.open("rb") as file:
                kind = _BY_SUFFIX.get(path.suffix.lower()) or _BY_FIRST_BYTES.get(file.read(4))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{path}: cannot be opened ({why})") from None
        if kind is None:
            raise UserError(
                f"{path}: not a set of images; give a folder of images, a zip, Parquet, .npy or .npz file, the folder of "
                "CIFAR-10's .bin files, or a store"
            )
        return kind
    if (path / INFO_FILE).exists():
        return "store"
    if next(path.glob("data_batch_*"), None) or next(path.glob("cifar-10-batches-*"), None):
        return "cifar10"
    table = next((name for name in _visible(path, "*.parquet") if Path(name).stem != "metadata"), None)
    if table is None:
        return "folder"
    image = next((name for name in _visible(path, "*") if name.lower().endswith(SUFFIXES)), None)
    if image is not None:
        raise UserError(f"{path}: holds images ({image}) and Parquet files ({table}); give the folder of one of them")
    return "parquet"


def _visible(folder: Path, pattern: str) -> Iterator[str]:
    """Names of files at any depth, relative to the folder, without hidden ones."""
    names = (file.relative_to(folder).as_posix() for file in folder.rglob(pattern))
    return (name for name in names if not any(part.startswith(".") for part in name.split("/")))


def open_source(config: DataConfig) -> Source:
    """The source that `config` names, not decoded yet. Raises UserError where it is bad as a whole."""
    match config.source:
        case "digits":
            return open_digits(config)
        case "folder" | "zip":
            return open_tree(config)
        case "parquet":
            from ambient_sweep.data.sources.parquet import open_parquet  # imports pyarrow

            return open_parquet(config)
        case "array":
            return open_array(config)
        case "cifar10":
            return open_cifar10(config)
        case "store":
            raise UserError("data.source: store is not a source of image files")
