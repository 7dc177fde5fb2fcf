"""Sources of images: folder, zip, Parquet, arrays, CIFAR-10's files, scikit-learn's digits. See docs/data.md."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.arrays import open_array, open_digits
from ambient_sweep.data.sources.cifar10 import open_cifar10
from ambient_sweep.data.sources.file_kinds import SUFFIXES
from ambient_sweep.data.sources.files import open_tree
from ambient_sweep.data.sources.source import Source
from ambient_sweep.data.sources.window import Window
from ambient_sweep.data.store import INFO_FILE
from ambient_sweep.errors import UserError

__all__ = ["Source", "open_source", "source_kind"]

Kind = Literal["folder", "zip", "parquet", "array", "cifar10", "store"]
FILES: dict[str, Kind] = {".zip": "zip", ".parquet": "parquet", ".npy": "array", ".npz": "array"}


def source_kind(path: Path) -> Kind:
    """The `data.source` that reads `path`. Raises UserError, which begins with the path, where there is no single one."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        kind = FILES.get(path.suffix.lower())
        if kind is None:
            what = "a folder of images, a zip, Parquet, .npy or .npz file, CIFAR-10's folder of .bin files, or a store"
            raise UserError(f"{path}: not a set of images; give {what}")
        return kind
    if (path / INFO_FILE).exists():
        return "store"
    if any(path.glob("data_batch_*")) or any(path.glob("cifar-10-batches-*")):
        return "cifar10"
    table = next((file for file in _seen(path, "*.parquet") if file.stem != "metadata"), None)
    if table is None:
        return "folder"
    image = next((file for file in _seen(path, "*") if file.suffix.lower() in SUFFIXES), None)
    if image is not None:
        raise UserError(f"{path}: holds images ({image}) and Parquet files ({table}); give the folder of one of them")
    return "parquet"


def _seen(folder: Path, pattern: str) -> Iterator[Path]:
    """Files at any depth, relative to the folder, without hidden ones."""
    files = (file.relative_to(folder) for file in folder.rglob(pattern))
    return (file for file in files if not any(part.startswith(".") for part in file.parts))


def open_source(config: DataConfig) -> Source:
    """The source that `config` names, not decoded yet. Raises UserError where it is bad as a whole."""
    source = _opened(config)
    if config.range is None:
        return source
    return dataclasses.replace(source, depth8=False, window=Window(*config.range, depth8=source.depth8))


def _opened(config: DataConfig) -> Source:
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
