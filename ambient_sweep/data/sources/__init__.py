"""Sources of images: folder, zip, Parquet, arrays, CIFAR-10's files, scikit-learn's digits. See docs/data.md."""

import dataclasses

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.arrays import open_array, open_digits
from ambient_sweep.data.sources.cifar10 import open_cifar10
from ambient_sweep.data.sources.files import open_tree
from ambient_sweep.data.sources.source import Source
from ambient_sweep.data.sources.window import Window
from ambient_sweep.errors import UserError

__all__ = ["Source", "open_source"]


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
