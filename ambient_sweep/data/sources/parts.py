"""The publisher's split of a source into training and held-out images, as `data.split` names it."""

import dataclasses
import fnmatch
import posixpath
import re
from collections.abc import Mapping, Sequence
from itertools import chain, compress

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.source import Source, first, printable
from ambient_sweep.data.sources.table import value_name
from ambient_sweep.errors import UserError

SPLIT = "split"  # the column that says of each image to which part it belongs
PARTS = re.compile(
    "(train|trn|tr|val|vld|valid|validation|validate|dev|development|test|tst|ts|eval|evaluation|hold|held|extra|unlabell?ed)"
    "(ing|set|out|data|val)?"
)


def parts(config: DataConfig) -> tuple[str, str] | None:
    """What `data.split` calls the training and the held-out images; None without it. Raises UserError for one name."""
    if config.split.train is None or config.split.heldout is None:
        return None
    train, heldout = posixpath.normpath(config.split.train), posixpath.normpath(config.split.heldout)
    if train == heldout:
        raise UserError(f"data.split: {train} cannot be both; name a part to train on and another to hold out")
    return train, heldout


def joined(sources: Mapping[str, Source]) -> Source:
    """The images of two sources by the names of their parts: the first train, the others are held out."""
    train, heldout = sources.values()
    return dataclasses.replace(
        train,
        names=[f"{part}/{name}" for part, source in sources.items() for name in source.names],
        loaders=lambda: chain(train.loaders(), heldout.loaders()),
        depth8=train.depth8 and heldout.depth8,
        columns=train.columns.then(heldout.columns),
        notes=(*train.notes, *heldout.notes),
        passed={f"{part}/{name}": kind for part, source in sources.items() for name, kind in source.passed.items()},
        published=np.arange(len(train) + len(heldout)) < len(train),
    )


def published(source: Source, config: DataConfig) -> Source:
    """The images in the parts that `data.split` names; all of them without it.

    Parts are values of the column `split`, where both are, else names: see `_named`. Raises UserError for a part without
    images and for an image in both.
    """
    wanted, place, how = parts(config), config.path or config.source, "name"
    if wanted is None:
        return source
    values = source.columns.read(SPLIT).tolist() if SPLIT in source.columns else []
    split = np.array([value_name(value) for value in values], dtype=object)
    given = sorted({name for name in split.tolist() if name is not None})
    if source.published is not None:
        train, heldout = source.published, ~source.published
    elif set(wanted) <= set(given):
        train, heldout, how = split == wanted[0], split == wanted[1], "the column split"
    else:
        files = [re.sub("#[0-9]+$", "", name) for name in source.names]  # without the row in a file of several
        train, heldout = (_named(part, files) for part in wanted)
        for part, rows in zip(wanted, (train, heldout), strict=True):
            if not rows.any():
                top = sorted({file.split("/")[0] for file in files})
                there = " or ".join(first(each) for each in (top, given) if each)
                raise UserError(f"data.split: {part} names no image of {place}; name {there}")
    if (train & heldout).any():
        both = first(list(compress(source.names, train & heldout)))
        raise UserError(f"data.split: {' and '.join(wanted)} share images of {place} ({both}); name parts that do not")
    used = train | heldout
    notes = [f"publisher's split by {how}: {train.sum():,} images in {wanted[0]}, {heldout.sum():,} in {wanted[1]}"]
    if not used.all():
        rest = list(compress(source.names, ~used))
        notes.append(f"{len(rest):,} images are in neither part of data.split and are left out ({first(rest)})")
    return dataclasses.replace(source, published=train, notes=(*source.notes, *notes)).only(used)


def _named(part: str, files: Sequence[str]) -> NDArray[np.bool_]:
    """Which images a part means: of this folder or file; else of this pattern; else of files and folders of this name.

    The last are train.parquet, train-00000-of-00002.parquet and cats/train/1.png for the part train.
    """
    name, found = re.escape(part), np.zeros(len(files), dtype=bool)
    for pattern in (f"{name}(/|$)", fnmatch.translate(part), f"(.*/)?{name}([-_./]|$)"):
        if not found.any():
            found = np.array([re.match(pattern, file) is not None for file in files])
    return found


def part_note(names: Sequence[str]) -> str:
    """What to do where the first folders of images are parts of a data set and not classes; "" where they are classes.

    At least two, one of them held out, which are named so in full or are half of all folders: "train" alone may be a class.
    """
    folders = sorted({printable(name.split("/", 1)[0]) for name in names if "/" in name})
    words = {each: re.findall("[A-Z]?[a-z]+|[A-Z]+", each) for each in folders}
    parts = [each for each in folders if any(PARTS.fullmatch(word.lower()) for word in words[each])]
    named = sum(PARTS.fullmatch(each.lower()) is not None for each in folders) > 1
    if not (named or 2 * len(parts) >= max(3, len(folders))) or all("train" in each.lower() for each in parts):
        return ""
    first, *_, last = sorted(parts, key=lambda each: ("train" not in each.lower(), "test" in each.lower()))
    split = f"{{train: {first}, heldout: {last}}}"
    return f"{', '.join(folders[:5])}: parts of a data set, not classes; use them as such by data.split: {split}"
