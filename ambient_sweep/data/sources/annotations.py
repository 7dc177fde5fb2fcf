"""Class numbers and noise levels that come with images: their checks, and the files beside a folder's images."""

import codecs
import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.decode import one_line
from ambient_sweep.data.sources.source import Source
from ambient_sweep.errors import UserError

MAX_CLASSES = 1_000_000
LOWEST_LEVEL, HIGHEST_LEVEL = 1e-6, 100.0  # of an image's own noise, besides 0; the highest is observed.sigma's
LABELS_FILE, LEVELS_FILE = "dataset.json", "levels.csv"
LABEL_COLUMN = DataConfig.model_fields["label_column"].default

Labels = tuple[NDArray[np.int64] | None, tuple[str, ...]]  # class numbers [N], class names
ReadFile = Callable[[str], bytes | None]  # a file beside the images, by name; None: there is none


class _LabelsFile(BaseModel):
    labels: list[tuple[str, Annotated[int, Field(strict=True, ge=0, lt=MAX_CLASSES)]]] | None = None


def annotated(
    source: Source, config: DataConfig, there: Collection[str], read: Callable[[str], NDArray[Any]], where: str
) -> Source:
    """The source with the labels and noise levels of the columns that `config` names, each a value per image.

    there: names of all columns; without the default one for labels there are no labels. read: a column by its name; may
    raise UserError. Raises UserError, which begins with `where`.
    """

    def column(name: str) -> NDArray[Any]:
        values = read(name)
        if values.shape not in ((len(source),), (len(source), 1)):
            raise UserError(
                f"{where}: {name}: has the shape {list(values.shape)}; one value per image: [{len(source)}]"
            )
        return values.reshape(len(source))

    label, level = config.label_column, config.sigma_column
    labels: Labels = (None, ())
    if label is not None and (label in there or label != LABEL_COLUMN):
        labels = class_labels(column(label), f"{where}: {label}")
    sigma = None if level is None else noise_levels(column(level), f"{where}: {level}", source.names)
    return dataclasses.replace(source, labels=labels[0], classes=labels[1], sigma=sigma)


def numbered(names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class numbers of class names, in the order of the names."""
    classes, numbers = np.unique(np.array(names, dtype=object), return_inverse=True)
    return numbers.astype(np.int64), tuple(classes.tolist())


def class_labels(values: NDArray[Any], where: str) -> Labels:
    """Labels by a column [N] of class numbers, named "0", "1", ..., or of class names. Raises UserError, with `where`."""
    if values.dtype.kind not in "iu":
        if not all(isinstance(each, str) for each in values.tolist()):
            form = "labels must be whole numbers or strings, none missing; data.label_column=null leaves them out"
            raise UserError(f"{where}: is {values.dtype}; {form}")
        return numbered(values.tolist())
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= MAX_CLASSES:
        bad = lowest if lowest < 0 else highest
        raise UserError(f"{where}: the label {bad} is out of range; class numbers are 0 to {MAX_CLASSES - 1:,}")
    return values.astype(np.int64), tuple(map(str, range(highest + 1)))


def noise_levels(values: NDArray[Any], where: str, names: Sequence[str]) -> NDArray[np.float32]:
    """Noise levels [N] of the images `names`; NaN stays, for an image without one. Raises UserError, with `where`."""
    if values.dtype.kind not in "fiu":
        raise UserError(f"{where}: is {values.dtype}; noise levels must be numbers")
    good = (values == 0) | ((values >= LOWEST_LEVEL) & (values <= HIGHEST_LEVEL)) | np.isnan(values)
    if not good.all():
        bad = int(np.argmin(good))
        wanted = f"it must be 0, or from {LOWEST_LEVEL:g} to {HIGHEST_LEVEL:g}"
        raise UserError(f"{where}: the noise level of {names[bad]} is {values[bad]}; {wanted}")
    return values.astype(np.float32)


# -- files beside a folder's images ---------------------------------------------------------------------------------


def folder_labels(names: Sequence[str], read: ReadFile, place: str) -> Labels:
    """Class numbers by `dataset.json` (EDM's and StyleGAN's format) where there is one, else by the first subfolder.

    Subfolders are classes where every image lies in one and there are at least two. Raises UserError.
    """
    data = read(LABELS_FILE)
    if data is None:
        labels, classes = numbered([name.split("/", 1)[0] for name in names])
        return (labels, classes) if all("/" in name for name in names) and len(classes) > 1 else (None, ())
    where = f"{place}/{LABELS_FILE}"
    try:
        entries = _LabelsFile.model_validate_json(data.removeprefix(codecs.BOM_UTF8)).labels
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        form = '{"labels": [[name, class number], ...]}'
        raise UserError(f"{where}: must be {form}; {at + ': ' if at else ''}{first['msg']}") from None
    if entries is None:
        return None, ()  # as EDM's dataset tool writes it for images without labels
    numbers = dict(entries)
    missing = next((name for name in names if name not in numbers), None)
    if missing is not None:
        raise UserError(f"{where}: has no label for {missing}")
    return class_labels(np.array([numbers[name] for name in names], dtype=np.int64), where)


def folder_levels(names: Sequence[str], read: ReadFile, place: str, column: str | None) -> NDArray[np.float32] | None:
    """Noise levels by `levels.csv`, columns `name` and `column`; NaN for an image that it leaves out. Raises UserError."""
    if column is None:
        return None
    import pyarrow as pa
    from pyarrow import csv

    where, data = f"{place}/{LEVELS_FILE}", read(LEVELS_FILE)
    if data is None:
        raise UserError(f"data.sigma_column: {where} does not exist; write it (name,{column}) or set the key to null")
    types = {"name": pa.string(), column: pa.float64()}
    options = csv.ConvertOptions(include_columns=[*types], column_types=types, null_values=[""])
    try:
        table = csv.read_csv(pa.BufferReader(data), convert_options=options)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(f"{where}: cannot be read ({one_line(error)})") from None
    given = table["name"].to_pylist()
    levels = dict(zip(given, noise_levels(table[column].to_numpy(), where, given), strict=True))
    if len(levels) < len(given):
        raise UserError(f"{where}: names {next(name for name in given if given.count(name) > 1)} twice")
    unknown = levels.keys() - set(names)
    if unknown:
        raise UserError(f"{where}: {min(unknown)} is not one of the images; names are relative, as in a/b.png")
    return np.array([levels.get(name, np.nan) for name in names], dtype=np.float32)
