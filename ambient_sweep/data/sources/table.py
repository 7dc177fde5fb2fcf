"""Columns of values per image, as metadata files, Parquet files and arrays have them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.errors import UserError

Values = NDArray[Any]  # [N]
SEVERAL = (list, tuple, dict, set, np.ndarray)


@dataclass(frozen=True)
class Table:
    """Columns that are read when asked for."""

    where: str  # what messages call it
    count: int  # of images
    names: Collection[str]
    reader: Callable[[str], Values]  # of a column, [N] or [N, 1]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def read(self, name: str) -> Values:
        """A column, [count]. Raises UserError where it is missing, has another shape, or holds lists and the like."""
        if name not in self.names:
            raise UserError(f"{self.where}: has no column {name}; it has {', '.join(self.names) or 'none'}")
        values = self.reader(name)
        if values.shape not in ((self.count,), (self.count, 1)):
            shape = f"{list(values.shape)}; one value per image: [{self.count}]"
            raise UserError(f"{self.where}: {name}: has the shape {shape}")
        if values.dtype == object and any(isinstance(value, SEVERAL) for value in values.flat):
            raise UserError(f"{self.where}: {name}: holds lists or structs; one value per image")
        return values.reshape(self.count)

    def only(self, used: NDArray[np.bool_]) -> "Table":
        """The rows where `used`, [count], is true."""
        return Table(self.where, int(used.sum()), self.names, lambda name: self.read(name)[used])

    def then(self, other: "Table") -> "Table":
        """The rows of both, in the columns that both have."""
        names, count = [name for name in self.names if name in other], self.count + other.count
        return Table(self.where, count, names, lambda name: np.concatenate([self.read(name), other.read(name)]))


NO_COLUMNS = Table("", 0, (), lambda _: np.empty(0))


def value_name(value: Any) -> str | None:
    """A value of a column as text, "7" of 7 and of 7.0 (a column of whole numbers with gaps); None where it is missing."""
    if value is None or value == "" or value != value:  # NaN
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
