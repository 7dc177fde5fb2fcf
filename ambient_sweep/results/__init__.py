"""Tables, frontier, rules and reports of a sweep."""

from ambient_sweep.results.select import select
from ambient_sweep.results.table import read_table

__all__ = ["read_table", "select"]
