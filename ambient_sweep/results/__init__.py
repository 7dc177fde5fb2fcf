"""Tables, frontier and report of a sweep."""

from ambient_sweep.results.frontier.select import select
from ambient_sweep.results.tables.parquet import read_table

__all__ = ["read_table", "select"]
