"""Class numbers and noise levels that come with images: their checks, and the files beside a folder's images."""

import codecs
import dataclasses
from collections.abc import Callable, Mapping, Sequence
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

Columns = Mapping[str, Callable[[], NDArray[Any]]]  # reads a value per image, [N] or [N, 1], by the name of the column
ReadFile = Callable[[str], bytes | None]  # a file beside the images, by name; None: there is none


class _LabelsFile(BaseModel):
    labels: list[tuple[str, Annotated[int, Field(strict=True, ge=0, lt=MAX_CLASSES)]]] | None = None


def annotated(source: Source, config: DataConfig, columns: Columns, where: str) -> Source:
    """The source with the labels and noise levels of the columns that `config` names.

    There are no labels where the default column is missing. Raises UserError, which begins with `where`.
    """
    count, label, level = len(source), config.label_column, config.sigma_column

    def column(name: str) -> NDArray[Any]:
        if name not in columns:
            raise UserError(f"{where}: has no column {name}; it has {', '.join(columns) or 'none'}")
        values = columns[name]()
        if values.shape not in ((count,), (count, 1)):
            raise UserError(f"{where}: {name}: has the shape {list(values.shape)}; one value per image: [{count}]")
        return values.reshape(count)

    if label is not None and (label in columns or label != LABEL_COLUMN):
        labels, classes = _class_labels(column(label), f"{where}: {label}")
        source = dataclasses.replace(source, labels=labels, classes=classes)
    if level is not None:
        sigma = _noise_levels(column(level), f"{where}: {level}", source.names)
        source = dataclasses.replace(source, sigma=sigma)
    return source


def _class_labels(values: NDArray[Any], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class numbers [N] and class names by a column [N] of numbers, named "0", "1", ..., or of names, in their order."""
    if values.dtype.kind not in "iu":
        if not all(isinstance(each, str) for each in values.tolist()):
            form = "labels must be whole numbers or strings, none missing; data.label_column=null leaves them out"
            raise UserError(f"{where}: is {values.dtype}; {form}")
        names, numbers = np.unique(values, return_inverse=True)
        return numbers.astype(np.int64), tuple(names.tolist())
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= MAX_CLASSES:
        bad = lowest if lowest < 0 else highest
        raise UserError(f"{where}: the label {bad} is out of range; class numbers are 0 to {MAX_CLASSES - 1:,}")
    return values.astype(np.int64), tuple(map(str, range(highest + 1)))


def _noise_levels(values: NDArray[Any], where: str, names: Sequence[str]) -> NDArray[np.float32]:
    """Noise levels [N] of the images `names`; NaN stays, for an image without one."""
    if values.dtype.kind not in "fiu":
        raise UserError(f"{where}: is {values.dtype}; noise levels must be numbers")
    good = (values == 0) | ((values >= LOWEST_LEVEL) & (values <= HIGHEST_LEVEL)) | np.isnan(values)
    if not good.all():
        bad = int(np.argmin(good))
        wanted = f"it must be 0, or from {LOWEST_LEVEL:g} to {HIGHEST_LEVEL:g}"
        raise UserError(f"{where}: the noise level of {names[bad]} is {values[bad]}; {wanted}")
    return values.astype(np.float32)


# -- files beside a folder's images ---------------------------------------------------------------------------------


def annotated_by_files(source: Source, config: DataConfig, read: ReadFile) -> Source:
    """The source with labels by `dataset.json` or by the first subfolders, and noise levels by `levels.csv`.

    read: a file beside the images. Raises UserError.
    """
    asked = config.label_column is not None
    labels = _folder_labels(source.names, read, f"{config.path}/{LABELS_FILE}") if asked else None
    columns: Columns = {} if labels is None else {LABEL_COLUMN: lambda: labels}
    level, levels = config.sigma_column, f"{config.path}/{LEVELS_FILE}"
    if level is not None:
        columns = {**columns, level: lambda: _folder_levels(source.names, read, levels, level)}
    return annotated(source, config, columns, levels)


def _folder_labels(names: Sequence[str], read: ReadFile, where: str) -> NDArray[Any] | None:
    """Class numbers by `dataset.json` (EDM's and StyleGAN's format) where there is one, else names of first subfolders.

    Subfolders are classes where every image lies in one and there are at least two.
    """
    data = read(LABELS_FILE)
    if data is None:
        folders = [name.split("/", 1)[0] for name in names]
        return np.array(folders) if all("/" in name for name in names) and len(set(folders)) > 1 else None
    try:
        entries = _LabelsFile.model_validate_json(data.removeprefix(codecs.BOM_UTF8)).labels
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        form = '{"labels": [[name, class number], ...]}'
        raise UserError(f"{where}: must be {form}; {at + ': ' if at else ''}{first['msg']}") from None
    if entries is None:
        return None  # as EDM's dataset tool writes it for images without labels
    numbers = dict(entries)
    missing = next((name for name in names if name not in numbers), None)
    if missing is not None:
        raise UserError(f"{where}: has no label for {missing}")
    return np.array([numbers[name] for name in names])


def _folder_levels(names: Sequence[str], read: ReadFile, where: str, column: str) -> NDArray[Any]:
    """Noise levels by `levels.csv`, columns `name` and `column`; NaN for an image that it leaves out."""
    import pyarrow as pa
    from pyarrow import csv

    data = read(LEVELS_FILE)
    if data is None:
        raise UserError(f"data.sigma_column: {where} does not exist; write it (name,{column}) or set the key to null")
    types = {"name": pa.string(), column: pa.float64()}
    options = csv.ConvertOptions(include_columns=[*types], column_types=types, null_values=[""])
    try:
        table = csv.read_csv(pa.BufferReader(data), convert_options=options)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(f"{where}: cannot be read ({one_line(error)})") from None
    given = table["name"].to_pylist()
    levels = dict(zip(given, table[column].to_numpy(), strict=True))
    if len(levels) < len(given):
        raise UserError(f"{where}: names {next(name for name in given if given.count(name) > 1)} twice")
    unknown = levels.keys() - set(names)
    if unknown:
        raise UserError(f"{where}: {min(unknown)} is not one of the images; names are relative, as in a/b.png")
    return np.array([levels.get(name, np.nan) for name in names])
