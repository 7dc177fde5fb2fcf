"""The pages on the tables: all columns are listed, and all queries run, to the same answers in every tool."""

import re
from pathlib import Path
from typing import Any

import columns_page
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from command_line import good
from made_up_sweeps import fill

from ambient_sweep.results import select
from ambient_sweep.results.export import export_tables
from ambient_sweep.results.tables import schema

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (DOCS / "tables.md").read_text(), re.MULTILINE | re.DOTALL)
ANSWERS = ("frontier", "best", "checkpoints", "failed", "hours", "sweeps")


def test_the_page_of_columns_is_that_of_the_schema() -> None:
    command = "PYTHONPATH=tests/results python -m columns_page > docs/columns.md"
    assert (DOCS / "columns.md").read_text() == columns_page.page(), f"docs/columns.md is old; run `{command}`"
    fields = [field for table in (schema.TRIALS, schema.EVALUATIONS) for field in table]
    assert [field.name for field in fields if not field.metadata[b"description"]] == []


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    for name, trials in (("digits", 24), ("faces", 5)):
        export_tables(fill(tmp_path / "runs" / name, trials))
    good("export", "runs/digits", "runs/faces", "--to", "all-runs")
    return tmp_path / "runs"


def rows(answer: Any) -> list[tuple[Any, ...]]:
    """The rows of what a tool answers."""
    if isinstance(answer, pd.Series):
        return list(answer.items())
    if isinstance(answer, pd.DataFrame):
        return list(answer.itertuples(index=False, name=None))
    if isinstance(answer, pl.DataFrame):
        return answer.rows()
    assert isinstance(answer, pa.Table)
    return [tuple(row.values()) for row in answer.to_pylist()]


def sql(block: str) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each query, under the comment before it."""
    with duckdb.connect() as database:
        views, *parts = re.split(r"^-- (\w+)\n", block, flags=re.MULTILINE)
        database.execute(views)
        return {name: database.execute(query).fetchall() for name, query in zip(parts[::2], parts[1::2], strict=True)}


def test_every_query_runs_and_all_tools_agree(runs: Path) -> None:
    answers = []
    for language, block in BLOCKS:
        if language == "sql":
            answers.append(sql(block))
        else:
            names: dict[str, Any] = {}
            exec(block, names)
            if "frontier" in names:
                answers.append({name: rows(names[name]) for name in ANSWERS})
            else:
                assert names["row"] == select(names["table"].filter(pa.compute.field("fraction") == 1), "knee").row
    assert len(answers) == 4
    first = answers[0]
    for found in answers:
        assert found.keys() == set(ANSWERS)
        assert [found[name] for name in ANSWERS[:4]] == [first[name] for name in ANSWERS[:4]]
        for name in ANSWERS[4:]:
            assert dict(found[name]) == pytest.approx(dict(first[name]))
    assert dict(first["hours"]) == pytest.approx({"completed": 25 * 31.5 / 3600, "failed": 31.5 / 3600})
    table = export_tables(runs / "digits").evaluations.to_pylist()
    assert [row[0] for row in first["frontier"]] == [
        row["trial_id"] for row in sorted(table, key=lambda row: row["memorization"]) if row["on_front"]
    ]
    assert (len(first["checkpoints"]), len(first["best"]), len(first["sweeps"])) == (8, 1, 2)
    assert first["failed"] == [("trial-bad", 0.4, "loss is not finite at image 6400")]
