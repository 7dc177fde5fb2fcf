"""Sources of images: folder, zip, Parquet, arrays, CIFAR-10's files, scikit-learn's digits. See docs/data.md."""

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.source import Block, Source
from ambient_sweep.errors import UserError

__all__ = ["Block", "Source", "open_source"]


def open_source(config: DataConfig) -> Source:
    """The source that `config` names; its images are not decoded yet.

    Raises UserError for what is wrong with the source as a whole. A single image that cannot be read raises nothing here
    or in `Source.blocks`, which lists it; what to do about it is the caller's to decide.
    """
    if config.source == "digits":
        from ambient_sweep.data.sources.digits import open_digits

        return open_digits(config)
    if config.source == "folder":
        from ambient_sweep.data.sources.folder import open_folder

        return open_folder(config)
    if config.source == "zip":
        from ambient_sweep.data.sources.zipped import open_zip

        return open_zip(config)
    if config.source == "parquet":
        from ambient_sweep.data.sources.parquet import open_parquet

        return open_parquet(config)
    if config.source == "array":
        from ambient_sweep.data.sources.arrays import open_array

        return open_array(config)
    if config.source == "cifar10":
        from ambient_sweep.data.sources.cifar10 import open_cifar10

        return open_cifar10(config)
    raise UserError(f"data.source: {config.source} is not a source of image files")
