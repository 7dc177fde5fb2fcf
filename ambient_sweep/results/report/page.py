"""The sweep's report: one HTML file that needs no server and no network; its numbers come from the tables alone.

Text from the sweep reaches the page escaped by Jinja2, or as JSON that the script writes as text; never as markup.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from ambient_sweep.object_store import with_urls
from ambient_sweep.results.frontier.select import Choice
from ambient_sweep.results.report.document import NO_IMPORTANCE, Importance, document, provenance
from ambient_sweep.results.report.pictures import similarity_picture
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import Tables
from ambient_sweep.storage import write_atomic
from ambient_sweep.text import command

HERE = Path(__file__).parent
SCRIPTS = ("base.js", "frontier.js", "panels.js")


def write_report(
    path: Path,
    tables: Tables,
    choice: Choice | None,
    best_file: Path,
    *,
    sentence: str,
    untouched: str = "",
    searched: Sequence[str] = (),
    importance: Importance = NO_IMPORTANCE,
) -> None:
    """Writes the page to `path`, in the sweep's folder, atomically.

    choice: None where nothing was measured; best_file: its config; sentence: what the page opens with; untouched: what the
    untouched base measures, in a sentence; searched: the keys of the search space.
    """
    templates = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    templates.filters |= {"number": number, "setting": setting}
    root, trials = path.resolve().parent, tables.trials.to_pylist()
    measured = tables.evaluations.select((schema.EVALUATION_SEED, schema.SAMPLES_SEED, "seconds")).to_pydict()
    again = sum(seconds for seed, own, seconds in zip(*measured.values(), strict=True) if seed != own)
    page = templates.get_template("page.html").render(
        style=(HERE / "page.css").read_text(),
        scripts=[get_plotlyjs(), *((HERE / name).read_text() for name in SCRIPTS)],
        name=root.name,
        sentence=sentence[:1].upper() + sentence[1:],
        untouched=untouched,
        trials=trials,
        statuses=Counter(row[schema.STATUS] for row in trials),
        hours=(sum(row[schema.DEVICE_SECONDS] for row in trials) + again) / 3600,
        chosen=choice.row if choice else None,
        next_best=choice.others[0] if choice and choice.others else None,
        similarity=similarity_picture(root, choice.row, tables.trials) if choice else None,
        command=command("train", best_file),
        provenance=provenance(tables.trials),
        data=document(root, tables, choice.row if choice else None, searched, importance),
    )
    write_atomic(path, with_urls(page).encode())


def number(value: Any) -> str:
    """A count, or a measured value with three decimals below 10, else four digits; `measured` of `base.js` has the same."""
    if value is None:
        return "–"  # noqa: RUF001
    size = abs(value)
    decimals = 0 if isinstance(value, int) or size >= 1000 else 3 if size < 10 else 2 if size < 100 else 1
    with localcontext(rounding=ROUND_HALF_UP):  # exact halves away from 0, as in JavaScript
        return f"{Decimal(value):,.{decimals}f}".replace("-", "−")  # noqa: RUF001


def setting(value: float) -> str:
    """A setting with four digits, as `number` of `base.js` writes it."""
    return f"{Context(prec=4, rounding=ROUND_HALF_UP).create_decimal_from_float(value).normalize():f}"
