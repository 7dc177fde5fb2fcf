import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_sweeps import add, fill

from ambient_sweep.results import select
from ambient_sweep.results.confidence import with_standings
from ambient_sweep.results.curves import attainment_image
from ambient_sweep.results.plot import frontier_image
from ambient_sweep.results.report import write_report
from ambient_sweep.results.select import frontier
from ambient_sweep.results.table import export_tables
from ambient_sweep.trial.grids import image_grid
from ambient_sweep.trial.records import evaluation_path, read_trials, write_trial

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Text, pictures, tables and addresses of a page whose tags must all be closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[bytes] = []
        self.attributes: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(source)
        assert not self.open
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [name for name, _ in attrs]
        if tag == "img":
            source = dict(attrs)["src"] or ""
            assert source.startswith("data:image/png;base64,")
            self.images.append(base64.b64decode(source.partition(",")[2], validate=True))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open[-1:] in (["td"], ["th"]):
            self.tables[-1][-1][-1] += data


def read(root: Path) -> Page:
    return Page(write_report(root, export_tables(root)).read_text())


def test_the_report_holds_frontier_picks_trials_and_pictures(sweep: Path) -> None:
    tables = export_tables(sweep)
    front = frontier(tables.evaluations).to_pylist()
    grids = []
    for row in front:
        path = evaluation_path(sweep, row["trial_id"], row["images"], row["endpoint"], ".png")
        image_grid(np.full((1, 1, 8, 8), row["fidelity"] / 100), np.zeros((1, 1, 8, 8)), path)
        grids.append(path.read_bytes())
    page = Page(write_report(sweep).read_text())
    assert page.images[0] == frontier_image(with_standings(tables.evaluations))
    assert page.images[2] == grids[0]
    assert page.images[-1] == grids[-1]
    assert len(page.images) == 10, "the frontier, the history, and eight of samples"
    assert set(page.images[2:]) <= set(grids)
    shown = next(table for table in page.tables if table[0][0] == "#")
    assert [(row[0], row[1], row[5]) for row in shown[1:]] == [
        (str(i), row["trial_id"], row["endpoint"]) for i, row in enumerate(front, 1)
    ]
    trials = next(table for table in page.tables if table[0][2:3] == ["status"])
    assert [row[0] for row in trials[1:]] == tables.trials["trial_id"].to_pylist()
    assert "loss is not finite at image 6400" in page.text
    for rule in ("knee", "max-memorization=0.05"):
        choice = select(tables.evaluations, rule)
        assert choice.runner_up is not None
        text = page.text.partition(f"{rule}: ")[2]
        assert text.startswith(f"trial {choice.row['trial_id']} after {choice.row['images']:,} images")
        assert f"Runner-up: trial {choice.runner_up['trial_id']}" in text
    for words in (
        "500",
        "d0d0",
        "4ef4",
        "torch 2.9.0",
        "fd_classifier",
        "fd_pixels",
        f"ambient-sweep best {sweep} --rule knee --out",
    ):
        assert words in page.text
    assert not list(sweep.glob(".*"))


def test_the_trials_say_what_was_trained_for_them_and_where_they_were_compared(sweep: Path) -> None:
    first = read_trials(sweep)[0]
    write_trial(sweep, replace(first, images_executed=1600, stage="s", forked_at=4800, rung=2))
    export_tables(sweep)
    page = Page(write_report(sweep).read_text())
    names, *rows = next(table for table in page.tables if table[0][2:3] == ["status"])
    shown = {row[0]: dict(zip(names, row, strict=True)) for row in rows}
    mine = shown.pop(first.trial_id)
    assert [mine[name].replace(",", "") for name in ("executed", "forked at", "rung")] == ["1600", "4800", "2"]
    assert {row["rung"] for row in shown.values()} == {""}


def test_the_page_needs_no_network_and_runs_no_script(sweep: Path) -> None:
    source = write_report(sweep, export_tables(sweep)).read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(", source)
    assert set(Page(source).attributes) <= {"lang", "charset", "name", "content", "class", "alt", "src"}


def test_what_the_baseline_says_comes_from_the_data(tmp_path: Path) -> None:
    clean = {"observed.sigma": 0, "objective.kind": "denoising"}
    add(tmp_path, "clean", clean, [(60.0, 0.1, 0.5), (30.0, 0.4, 1.0)], role="baseline")
    add(tmp_path, "noisy", {}, [(50.0, 0.05, 1.0)])
    page = read(tmp_path)
    assert "Of the 2 points of the frontier, 1 are clean training stopped somewhere: 200,000 images" in page.text
    assert "1 of the 2 checkpoints of clean training are beaten in both objectives at once" in page.text
    comparison = next(table for table in page.tables if table[0][0] == "clean training")
    assert [(row[1], row[4]) for row in comparison[1:]] == [
        ("99,968", "noisy, 100 %, zero"),
        ("200,000", "noisy, 100 %, zero"),
    ]
    add(tmp_path, "noisy", {}, [(50.0, 0.2, 1.0)])
    page = read(tmp_path)
    assert "Of the 3 points of the frontier, 2 are clean training" in page.text
    assert "0 of the 2 checkpoints of clean training are beaten" in page.text
    comparison = next(table for table in page.tables if table[0][0] == "clean training")
    assert [row[4] for row in comparison[1:]] == ["none", "noisy, 100 %, zero"]


def test_how_sure_the_frontier_is_and_what_further_seeds_attain(tmp_path: Path) -> None:
    add(tmp_path, "a", {"observed.sigma": 0.2}, [(20.0, 0.3)])
    add(tmp_path, "b", {"observed.sigma": 0.4}, [(40.0, 0.1)])
    assert "the uncertainty of sampling alone" in read(tmp_path).text
    for seed, shift in enumerate((4.0, 8.0), 1):
        for name, sigma, point in (("a", 0.2, (20.0 + shift, 0.3)), ("b", 0.4, (40.0 + shift, 0.1))):
            values = {"observed.sigma": sigma, "seed": seed}
            add(tmp_path, f"{name}{seed}", values, [point], role="replicate", replicate_of=name)
    tables = export_tables(tmp_path)
    page = read(tmp_path)
    listed = next(t for t in page.tables if t[0][-1] == "memorization" and t[0][0] == "trial")
    assert [(row[0], row[6], row[7]) for row in listed[1:]] == [("b", "100 %", "3"), ("a", "100 %", "3")]
    assert [row[8].split(" ")[0] for row in listed[1:]] == ["44", "24"]
    assert "What 2 further training seeds of the confirmed configs attain" in page.text
    assert page.images[1] == attainment_image(tables.evaluations)
    assert len(page.images) == 3


def test_all_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & \"more\""
    root = tmp_path / "a&b <i>"
    add(root, "t<b>1", {}, [(30.0, 0.2)], status="failed", reason=evil, device=evil, versions={evil: evil})
    source = write_report(root, export_tables(root)).read_text()
    assert "<script" not in source
    assert "<i>" not in source
    assert "t<b>" not in source
    page = Page(source)
    assert evil in page.text
    assert "t<b>1" in page.text
    assert "Sweep a&b <i>" in page.text


@pytest.mark.parametrize("trials", [0, 1])
def test_a_report_can_be_made_before_anything_is_measured(tmp_path: Path, trials: int) -> None:
    for i in range(trials):
        add(tmp_path, f"t{i}", {}, [], status="running", finished=None)
    page = read(tmp_path)
    assert "nothing to pick from" in page.text
    assert "nothing to compare" in page.text
    assert len(page.images) == 1


def test_the_report_of_a_sweep_without_baseline_says_so(tmp_path: Path) -> None:
    fill(tmp_path, trials=1)
    for path in (tmp_path / "trials/baseline-0").rglob("*.json"):
        path.unlink()
    assert "No evaluated baseline" in read(tmp_path).text
