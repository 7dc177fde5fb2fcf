"""The publisher's split of a source into training and held-out images, as `data.split` names it."""

import dataclasses
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.source import Columns, Loader, Source, first, read_column
from ambient_sweep.errors import UserError

SPLIT = "split"  # the column that says of each image to which part it belongs


def parts(config: DataConfig) -> tuple[str, str] | None:
    """What `data.split` calls the training and the held-out images; None without it."""
    split = config.split
    return None if split.train is None or split.heldout is None else (split.train, split.heldout)


def published(source: Source, config: DataConfig, columns: Columns, where: str) -> tuple[Source, Columns]:
    """The images of the parts that `data.split` names, with their columns; all of them without `data.split`.

    A part is a value of the column `split`, where both are, or else by the names of the images what `_named` says.
    Raises UserError for a part without images, and for an image in both; for a bad column it begins with `where`.
    """
    names = parts(config)
    if names is None or source.published is not None:
        return source, columns
    place = config.path or config.source
    values = read_column(columns, SPLIT, len(source), where) if SPLIT in columns else np.empty(0)
    given = {str(value): values == value for value in dict.fromkeys(values.tolist())}
    by_column = all(name in given for name in names)
    train, heldout = (given[name] if by_column else _named(name, source.names) for name in names)
    for key, name, rows in (("train", names[0], train), ("heldout", names[1], heldout)):
        if not rows.any():
            there = _there(source.names, given)
            raise UserError(f"data.split.{key}: {name} names no image of {place}; there are {there}")
    if (train & heldout).any():
        both = first(list(compress(source.names, train & heldout)))
        raise UserError(
            f"data.split: {names[0]} and {names[1]} share images of {place} ({both}); name parts that do not"
        )
    used, how = train | heldout, f"by {'the column split' if by_column else 'name'}"
    notes = [f"publisher's split {how}: {train.sum():,} images in {names[0]}, {heldout.sum():,} in {names[1]}"]
    if not used.all():
        rest = list(compress(source.names, ~used))
        notes.append(f"{len(rest):,} images are in neither part of data.split and are left out ({first(rest)})")
    return (
        dataclasses.replace(
            source,
            names=list(compress(source.names, used)),
            loaders=partial(_compressed, source, used),
            published=train[used],
            notes=(*source.notes, *notes),
        ),
        {name: partial(_some, read, used) for name, read in columns.items()},
    )


def _compressed(source: Source, used: NDArray[np.bool_]) -> Iterator[Loader]:
    return compress(source.loaders(), used)


def _some(read: Callable[[], NDArray[Any]], used: NDArray[np.bool_]) -> NDArray[Any]:
    values = read()
    return values[used] if len(values) == len(used) else values  # of another length: refused where it is read


def _named(part: str, names: Sequence[str]) -> NDArray[np.bool_]:
    """Which images a part means: those of a folder or file, else of a pattern, else of files and folders named so.

    The last are train.parquet, train-00000-of-00002.parquet and cats/train/1.png for the part train.
    """
    files, part = [_file(name) for name in names], posixpath.normpath(part)
    word = re.compile(rf"(^|/){re.escape(part)}([-_./]|$)")
    for matches in (
        lambda file: file == part or file.startswith(f"{part}/"),
        lambda file: fnmatchcase(file, part),
        lambda file: word.search(file) is not None,
    ):
        found = np.array([matches(file) for file in files])
        if found.any():
            break
    return found


def _file(name: str) -> str:
    """The file of an image, without the row in a file of several."""
    return re.sub("#[0-9]+$", "", name)


def _there(names: Sequence[str], values: Iterable[str]) -> str:
    """What parts could be named, for a message."""
    tops = sorted({_file(name).split("/", 1)[0] for name in names})
    found = first(tops)
    return f"{found}, and in the column {SPLIT} {first(sorted(values))}" if values else found
