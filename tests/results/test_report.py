import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from made_up_sweeps import add, fill
from PIL import Image

from ambient_sweep.results import select
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.candidates import frontier
from ambient_sweep.results.report.frontier_plot import frontier_image, frontier_png
from ambient_sweep.results.report.page import write_report
from ambient_sweep.trial.grids import image_grid
from ambient_sweep.trial.records import evaluation_path, read_trials, write_trial


class Page:
    """A page, which is well-formed XML: its text, pictures and tables."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tree = ElementTree.fromstring(source.removeprefix("<!doctype html>"))
        self.text = " ".join("".join(self.tree.itertext()).split())
        sources = [each.attrib["src"].removeprefix("data:image/png;base64,") for each in self.tree.iter("img")]
        self.images = [base64.b64decode(each, validate=True) for each in sources]

    def rows(self, first: str) -> list[dict[str, str]]:
        """The table whose first column has this name."""
        tables = [[[cell.text or "" for cell in row] for row in table] for table in self.tree.iter("table")]
        header, *rows = next(table for table in tables if table[0][0] == first)
        return [dict(zip(header, row, strict=True)) for row in rows]


def read(root: Path) -> Page:
    return Page(write_report(root, build_tables(root)).read_text())


def test_the_report_holds_frontier_picks_trials_and_pictures(tmp_path: Path) -> None:
    sweep = fill(tmp_path / "demo", trials=4)
    first = read_trials(sweep)[0]
    write_trial(sweep, replace(first, images_executed=1600, stage="s", forked_at=4800, rung=2))
    tables = build_tables(sweep)
    front = frontier(tables.evaluations).to_pylist()
    grids = []
    for row in front:
        path = evaluation_path(sweep, row["trial_id"], row["images"], row["endpoint"], ".png")
        image_grid(np.full((1, 1, 8, 8), row["fidelity"] / 100), np.zeros((1, 1, 8, 8)), path)
        grids.append(path.read_bytes())
    page = Page(write_report(sweep, tables).read_text())
    assert page.images[0] == frontier_image(tables.evaluations)
    assert (page.images[2], page.images[-1]) == (grids[0], grids[-1]), "after the frontier and the history"
    assert len(page.images) <= 10
    assert set(page.images[2:]) <= set(grids)
    names = ("#", "trial", "endpoint", "runs", "mean fidelity")
    assert [tuple(row[name].split(" ")[0] for name in names) for row in page.rows("#")] == [
        (str(i), row["trial_id"], row["endpoint"], str(row["runs"]), f"{row['fidelity_mean']:.4g}")
        for i, row in enumerate(front, 1)
    ]
    trials = page.rows("trial")
    assert [row["trial"] for row in trials] == tables.trials["trial_id"].to_pylist()
    assert [trials[0][name] for name in ("executed", "forked at", "rung")] == ["1,600", "4,800", "2"]
    assert {row["rung"] for row in trials[1:]} == {""}
    for rule in ("knee", "max-memorization=0.05"):
        choice = select(tables.evaluations, rule)
        assert choice.runner_up is not None
        text = page.text.partition(f"{rule}: ")[2]
        assert text.startswith(f"trial {choice.row['trial_id']} after {choice.row['images']:,} images")
        assert f"Runner-up: trial {choice.runner_up['trial_id']}" in text
    command = f"ambient-sweep best {sweep} --rule knee --out"
    known = ("500", "d0d0", "4ef4", "torch 2.9.0", "fd_classifier", "fd_pixels", "loss is not finite at image 6400")
    assert [words for words in (*known, command) if words not in page.text] == []
    assert not list(sweep.glob(".*"))
    assert not re.search(r"https?:|<script|<link|@import|url\(", page.source), "needs no network, runs no script"
    attributes = {name for element in page.tree.iter() for name in element.attrib}
    assert attributes <= {"lang", "charset", "name", "content", "class", "alt", "src"}


def test_what_noise_buys_comes_from_the_data(tmp_path: Path) -> None:
    clean = {"observed.sigma": 0, "objective.kind": "denoising"}
    add(tmp_path, "clean", clean, [(60.0, 0.1, 0.5), (30.0, 0.4, 1.0)], role="baseline")
    add(tmp_path, "noisy", {}, [(50.0, 0.05, 1.0)])
    page = read(tmp_path)
    assert "clean training, stopped early or not: 1 of 2 (200,000 images)" in page.text
    assert "some noisy trial beats in both objectives at once: 1 of 2" in page.text
    add(tmp_path, "noisy", {}, [(50.0, 0.2, 1.0)])
    page = read(tmp_path)
    assert "stopped early or not: 2 of 3" in page.text
    assert "at once: 0 of 2" in page.text


def test_all_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & \"more\""
    root = tmp_path / "a&b <i>"
    add(root, "t<b>1", {}, [(30.0, 0.2)], status="failed", reason=evil, device=evil, versions={evil: evil})
    page = read(root)
    assert [tag for tag in ("<script", "<i>", "t<b>") if tag in page.source] == []
    assert [text for text in (evil, "t<b>1", "Sweep a&b <i>") if text not in page.text] == []


@pytest.mark.parametrize("trials", [0, 1])
def test_a_report_can_be_made_before_anything_is_measured(tmp_path: Path, trials: int) -> None:
    for i in range(trials):
        add(tmp_path, f"t{i}", {}, [], status="running", finished=None)
    page = read(tmp_path)
    assert "nothing to pick from" in page.text
    assert "No evaluated baseline" in page.text
    assert len(page.images) == 1


# -- the frontier's picture -----------------------------------------------------------------------------------------


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def reds(png: bytes) -> int:
    """How many pixels have the colour of the baseline."""
    return int((np.abs(pixels(png) - (0xD1, 0x49, 0x5B)).max(axis=2) < 12).sum())


def test_the_picture_shows_the_baseline_where_there_is_one(tmp_path: Path) -> None:
    table = build_tables(fill(tmp_path, trials=2)).evaluations
    frontier_png(table, tmp_path / "frontier.png")
    assert reds((tmp_path / "frontier.png").read_bytes()) > 1000
    without = table.filter(pa.array([role != "baseline" for role in table["role"].to_pylist()]))
    assert reds(frontier_image(without)) == 0


def test_odd_tables_are_drawn_too(tmp_path: Path) -> None:
    empty = frontier_image(build_tables(tmp_path).evaluations)
    add(tmp_path, "one", {}, [(-0.5, -0.01)])
    one = frontier_image(build_tables(tmp_path).evaluations)
    add(tmp_path, "clean", {"observed.sigma": 0, "objective.kind": "denoising"}, [(3000.0, 1.0)], role="baseline")
    add(tmp_path, "nan", {}, [(float("nan"), 0.3)])
    two = frontier_image(build_tables(tmp_path).evaluations)
    assert len({empty, one, two}) == 3
    assert min(len(np.unique(pixels(png))) for png in (empty, one, two)) > 10
