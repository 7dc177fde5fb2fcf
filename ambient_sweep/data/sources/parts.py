"""The publisher's split of a source into training and held-out images, as `data.split` names it."""

import dataclasses
import fnmatch
import posixpath
import re
from collections.abc import Sequence
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.source import Columns, Source, first, read_column, value_name
from ambient_sweep.errors import UserError

SPLIT = "split"  # the column that says of each image to which part it belongs


def parts(config: DataConfig) -> tuple[str, str] | None:
    """What `data.split` calls the training and the held-out images; None without it."""
    train, heldout = config.split.train, config.split.heldout
    return None if train is None or heldout is None else (posixpath.normpath(train), posixpath.normpath(heldout))


def published(source: Source, config: DataConfig, columns: Columns, where: str) -> tuple[Source, Columns]:
    """The images in the parts that `data.split` names, with their columns; all of them without `data.split`.

    Parts are values of the column `split`, where both are, else names: see `_named`. Raises UserError for a part without
    images and for an image in both.
    """
    wanted, place = parts(config), config.path or config.source
    if wanted is None or source.published is not None:
        return source, columns
    values = read_column(columns, SPLIT, len(source), where).tolist() if SPLIT in columns else []
    split = np.array([value_name(value) for value in values], dtype=object)
    given = {name: split == name for name in dict.fromkeys(split.tolist()) if name is not None}
    by_column = all(part in given for part in wanted)
    files = [re.sub("#[0-9]+$", "", name) for name in source.names]  # without the row in a file of several
    train, heldout = (given[part] if by_column else _named(part, files) for part in wanted)
    for part, rows in zip(wanted, (train, heldout), strict=True):
        if not rows.any():
            there = " or ".join(first(sorted(each)) for each in ({file.split("/")[0] for file in files}, given) if each)
            raise UserError(f"data.split: {part} names no image of {place}; name {there}")
    if (train & heldout).any():
        both = first(list(compress(source.names, train & heldout)))
        raise UserError(
            f"data.split: {wanted[0]} and {wanted[1]} share images of {place} ({both}); name parts that do not"
        )
    loaders, used, how = source.loaders, train | heldout, "the column split" if by_column else "name"
    notes = [f"publisher's split by {how}: {train.sum():,} images in {wanted[0]}, {heldout.sum():,} in {wanted[1]}"]
    if not used.all():
        rest = list(compress(source.names, ~used))
        notes.append(f"{len(rest):,} images are in neither part of data.split and are left out ({first(rest)})")
    source = dataclasses.replace(
        source,
        names=list(compress(source.names, used)),
        loaders=lambda: compress(loaders(), used),
        published=train[used],
        notes=(*source.notes, *notes),
    )
    return source, {name: partial(_rows, columns, name, used, where) for name in columns}


def _rows(columns: Columns, name: str, used: NDArray[np.bool_], where: str) -> NDArray[Any]:
    return read_column(columns, name, len(used), where)[used]


def _named(part: str, files: Sequence[str]) -> NDArray[np.bool_]:
    """Which images a part means: of this folder or file; else of this pattern; else of files and folders of this name.

    The last are train.parquet, train-00000-of-00002.parquet and cats/train/1.png for the part train.
    """
    name, found = re.escape(part), np.zeros(len(files), dtype=bool)
    for pattern in (f"{name}(/|$)", fnmatch.translate(part), f"(.*/)?{name}([-_./]|$)"):
        if not found.any():
            found = np.array([re.match(pattern, file) is not None for file in files])
    return found
