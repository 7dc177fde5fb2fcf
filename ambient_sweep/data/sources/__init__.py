"""Sources of images: folder, zip, Parquet, arrays, CIFAR-10's files, scikit-learn's digits. See docs/data.md."""

import dataclasses
from pathlib import Path
from typing import Literal

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.annotations import annotated
from ambient_sweep.data.sources.arrays import open_array, open_cifar10, open_digits
from ambient_sweep.data.sources.decode import Window
from ambient_sweep.data.sources.files import open_tree, walk
from ambient_sweep.data.sources.parts import joined, parts, published
from ambient_sweep.data.sources.source import Source, refuse_pointer, source_path
from ambient_sweep.data.store import INFO_FILE
from ambient_sweep.errors import UserError

__all__ = ["Source", "open_source", "source_kind"]

Kind = Literal["folder", "zip", "parquet", "array", "cifar10", "store"]
FILES: dict[str, Kind] = {".zip": "zip", ".parquet": "parquet", ".pq": "parquet", ".npy": "array", ".npz": "array"}


def source_kind(path: Path) -> Kind:
    """The `data.source` that reads `path`; with Parquet files of images, that is "parquet" even beside other images.

    Raises UserError, which begins with the path.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    refuse_pointer(path)
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
    from ambient_sweep.data.sources.parquet import holds_images  # imports pyarrow

    tables = (path / name for name in walk(path, str(path), {}) if name.endswith(".parquet"))
    return "parquet" if any(table.stem != "metadata" and holds_images(table) for table in tables) else "folder"


def open_source(config: DataConfig, clip: bool = True) -> Source:
    """The source that `config` names, not decoded yet; clip: what lies outside data.range. Raises UserError."""
    source = annotated(published(_opened(config), config), config)
    if config.range is None:
        return source
    return dataclasses.replace(source, depth8=False, window=Window(*config.range, source.depth8, clip))


def _opened(config: DataConfig) -> Source:
    wanted = parts(config)
    if wanted is not None and config.source in ("zip", "array") and (root := source_path(config)).is_dir():
        files = {
            part: config.model_copy(update={"path": str(root / part), "split": DataConfig().split}) for part in wanted
        }
        return joined({part: _opened(file) for part, file in files.items()})
    match config.source:
        case "digits":
            return open_digits(config)
        case "folder" if (kind := FILES.get((path := source_path(config)).suffix.lower())) and path.is_file():
            raise UserError(f"data.path: {config.path} is not a folder; data.source={kind} reads it")
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
