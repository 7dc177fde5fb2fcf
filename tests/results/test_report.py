import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
from made_up_sweeps import add, fill
from PIL import Image

from ambient_sweep.results import select
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.candidates import frontier
from ambient_sweep.results.report.frontier_plot import frontier_png
from ambient_sweep.results.report.page import write_report
from ambient_sweep.trial.records import read_trials, write_trial


class Page:
    """The report of a sweep, which is well-formed XML: its text, picture and tables."""

    def __init__(self, root: Path, picture: bytes = b"png") -> None:
        tables, path = build_tables(root), root / "report.html"
        write_report(path, tables, select(tables.evaluations, "knee"), picture, root / "best.yaml")
        self.source = path.read_text()
        self.tree = ElementTree.fromstring(self.source.removeprefix("<!doctype html>"))
        self.text = " ".join("".join(self.tree.itertext()).split())
        sources = [each.attrib["src"].removeprefix("data:image/png;base64,") for each in self.tree.iter("img")]
        self.images = [base64.b64decode(each, validate=True) for each in sources]
        tables = [[[cell.text or "" for cell in row] for row in table] for table in self.tree.iter("table")]
        self.chosen, self.front, self.trials = (
            [dict(zip(header, row, strict=True)) for row in rows] for header, *rows in tables
        )


def test_the_report_holds_choice_frontier_trials_and_provenance(tmp_path: Path) -> None:
    sweep = fill(tmp_path / "my demo", trials=4)
    first = read_trials(sweep)[0]
    write_trial(sweep, replace(first, images_executed=1600, stage="s", forked_at=4800, rung=2))
    tables, page = build_tables(sweep), Page(sweep)
    assert page.images == [b"png"]
    rows = frontier(tables.evaluations).to_pylist()
    assert [(row["#"], row["trial_id"], row["endpoint"], row["images"], row["runs"]) for row in page.front] == [
        (str(i), row["trial_id"], row["endpoint"], f"{row['images']:,}", str(row["runs"]))
        for i, row in enumerate(rows, 1)
    ]
    for name in ("fidelity", "fidelity_low", "fidelity_high"):
        assert page.front[0][name] == f"{rows[0][name]:.4g}"
    choice = select(tables.evaluations, "knee")
    assert choice.runner_up is not None
    assert [row["trial_id"] for row in page.chosen] == [choice.row["trial_id"], choice.runner_up["trial_id"]]
    assert [row["trial_id"] for row in page.trials] == tables.trials["trial_id"].to_pylist()
    assert [page.trials[0][name] for name in ("images_executed", "images_forked", "rung")] == ["1,600", "4,800", "2"]
    assert {row["rung"] for row in page.trials[1:]} == {""}
    command = f"ambient-sweep train '{sweep}/best.yaml'"
    known = ("500", "d0d0", "4ef4", "2.9.0", "fd_classifier", "fd_pixels", "loss is not finite at image 6400")
    assert [words for words in (*known, command, choice.reason) if words not in page.text] == []
    assert not re.search(r"https?:|<script|<link|@import|url\(", page.source), "needs no network, runs no script"


def test_all_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & \"more\""
    root = tmp_path / "a&b <i>"
    add(root, "t<b>1", {}, [(30.0, 0.2)], status="failed", reason=evil, device=evil, versions={evil: evil})
    page = Page(root)
    assert [tag for tag in ("<script", "<i>", "t<b>") if tag in page.source] == []
    assert [text for text in (evil, "t<b>1", "Sweep a&b <i>") if text not in page.text] == []


# -- the frontier's picture -----------------------------------------------------------------------------------------


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def reds(png: bytes) -> int:
    """How many pixels have the colour of the baseline."""
    return int((np.abs(pixels(png) - (0xD1, 0x49, 0x5B)).max(axis=2) < 12).sum())


def test_the_picture_shows_the_baseline_where_there_is_one(tmp_path: Path) -> None:
    table = build_tables(fill(tmp_path, trials=2)).evaluations
    assert reds(frontier_png(table)) > 1000
    without = table.filter(pa.array([role != "baseline" for role in table["role"].to_pylist()]))
    assert reds(frontier_png(without)) == 0


def test_odd_tables_are_drawn_too(tmp_path: Path) -> None:
    add(tmp_path, "one", {}, [(-0.5, -0.01)])
    one = frontier_png(build_tables(tmp_path).evaluations)
    add(tmp_path, "clean", {"observed.sigma": 0, "objective.kind": "denoising"}, [(3000.0, 1.0)], role="baseline")
    add(tmp_path, "nan", {}, [(float("nan"), 0.3)])
    two = frontier_png(build_tables(tmp_path).evaluations)
    assert one != two
    assert min(len(np.unique(pixels(png))) for png in (one, two)) > 10
