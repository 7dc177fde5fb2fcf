"""The page docs/columns.md: `PYTHONPATH=tests/results python -m columns_page > docs/columns.md`."""

from ambient_sweep.results.tables import schema

HEAD = """# The columns of the tables

Generated from `ambient_sweep/results/tables/schema.py`. [tables.md](tables.md) shows how to query the tables,
[metrics.md](metrics.md) defines the measures, and [glossary.md](glossary.md) the terms.
"""


def page() -> str:
    """The page in Markdown: name, type, nullability and meaning of each column."""
    lines = [HEAD]
    for table in (schema.EVALUATIONS, schema.TRIALS):
        name = table.metadata[schema.TABLE_KEY].decode()
        lines += [f"## `{name}.parquet`\n", "| column | type | meaning |", "|---|---|---|"]
        for field in table:
            kind = str(field.type).replace("item: ", "").replace("element: ", "") + (", null" if field.nullable else "")
            meaning = field.metadata[schema.DESCRIPTION].decode().replace("|", r"\|")
            lines.append(f"| `{field.name}` | {kind} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
