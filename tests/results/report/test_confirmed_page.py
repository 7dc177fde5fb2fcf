"""The report of a sweep whose best was measured again, and what is printed and run from it, in a real browser."""

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import good
from made_up_sweeps import confirm, fill
from made_up_tables import SEARCHED, made_up_tables, write_pictures
from report_pages import CUT, DRAWN, Open, place, unfold, written
from small_trials import small

from ambient_sweep.config import knobs, write_config
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.candidates import frontier
from ambient_sweep.results.report.page import number
from ambient_sweep.results.tables.parquet import Tables
from ambient_sweep.trial.records import read_evaluations
from ambient_sweep.trial.remeasure import remeasure
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tables]:
    """The report of a sweep of which the best was measured again, and its tables."""
    root = fill(tmp_path_factory.mktemp("page") / "confirmed")
    confirm(root)
    tables = build_tables(root)
    write_pictures(root, tables.evaluations)
    return written(root, tables), tables


def test_each_point_of_a_confirmed_frontier_can_be_hovered_and_clicked(
    confirmed: tuple[Path, Tables], open_page: Open
) -> None:
    path, tables = confirmed
    page = open_page(path)
    page.locator("#once + span").click()
    front = frontier(tables.evaluations).to_pylist()
    assert len(front) > 5
    for index, row in enumerate(front):
        page.mouse.move(5, 5)
        page.wait_for_function("!document.querySelector('.hoverlayer .hovertext')")
        page.mouse.move(*place(page, index))
        page.wait_for_function(f"plane._hoverdata?.[0].customdata === points.indexOf(front[{index}])")
        text = page.locator(".hoverlayer").text_content() or ""
        assert row["trial_id"] in text
        assert number(row["fidelity"]) in text
        page.mouse.click(*place(page, index))
        page.wait_for_function(f"selected === front[{index}]")
    caption = page.locator("figcaption").inner_text()
    assert (
        "nearest to it, and its distance (L2 of thumbnails, 16x16 at most). Of held-out images, 1 % are nearer"
        in caption
    )
    assert "of seed 0; the values were measured on 2,000 others, of seed 2" in caption


def test_what_was_measured_once_is_counted_and_shown_when_asked(
    confirmed: tuple[Path, Tables], open_page: Open
) -> None:
    path, tables = confirmed
    page, rows = open_page(path), tables.evaluations.to_pylist()
    places = {(row["trial_id"], row["images"], row["endpoint"]) for row in rows}
    again = {(row["trial_id"], row["images"], row["endpoint"]) for row in rows if row["samples"] == 2000}
    more = len(places) - len(again)
    assert more > 0
    assert page.evaluate(DRAWN) == len(again)
    assert f"{len(again)} checkpoints on 2,000 samples each" in page.locator("#caption").inner_text()
    said = f"{more} more were measured once, on 500 samples, and do not compare with these: "
    assert said + "not shown" in page.locator("#caption").inner_text()
    page.locator("#once + span").click()
    assert page.evaluate(DRAWN) == len(places)
    assert said + "shown faint" in page.locator("#caption").inner_text()
    assert "measured once, on 500 samples" in (page.locator("#plane .legend").text_content() or "")
    page.locator("text=One per trial").click()
    last: dict[str, int] = {}
    for row in rows:
        last[row["trial_id"]] = max(last.get(row["trial_id"], 0), row["images"])
    found = page.evaluate("shown().filter((p) => !p.on_front).map((p) => [p.trial_id, p.images])")
    assert dict(found).items() <= last.items()
    assert len({trial for trial, _ in found}) == len(found)
    assert {trial for trial, _ in found} | {row["trial_id"] for row in rows if row["on_front"]} == set(last)
    page.locator("text=All").first.click()
    faint = page.evaluate("points.findIndex((p) => p.once)")
    page.evaluate("(i) => trail(points[i])", faint)
    own = "(i) => points.filter((p) => ['trial_id', 'endpoint', 'samples'].every((n) => p[n] === points[i][n])).length"
    lines = page.evaluate("plane.layout.shapes[0].path.split('L').length")
    assert lines == page.evaluate(own, faint) == 4


def test_the_head_counts_the_time_of_remeasurements_and_the_table_what_acts(
    confirmed: tuple[Path, Tables], open_page: Open
) -> None:
    path, tables = confirmed
    page = open_page(path)
    seconds = sum(tables.trials["device_seconds"].to_pylist())
    seconds += sum(row["seconds"] for row in tables.evaluations.to_pylist() if row["samples"] == 2000)
    assert f"{number(seconds / 3600)} device hours" in page.locator("header").inner_text()
    unfold(page)
    page.locator("#trials input").fill("baseline")
    cells = page.locator("#trials tbody td").all_inner_texts()
    heads = [head.replace("\u200b", "") for head in page.locator("#trials th").all_inner_texts()]
    shown = dict(zip(heads, cells, strict=True))
    assert [shown[key] for key in SEARCHED] == ["0", "–", "–", "–"]  # noqa: RUF001
    page.evaluate("select(points.find((p) => p.role === 'baseline'))")
    assert "consistency" not in page.locator("#detail .muted").first.inner_text()


@pytest.mark.parametrize("width", [1200, 720])
def test_no_number_is_cut(width: int, confirmed: tuple[Path, Tables], open_page: Open) -> None:
    page = open_page(confirmed[0], viewport={"width": width, "height": 900})
    page.evaluate("front[0].measures.forEach((m) => { m.value *= 1e5; m.low *= 1e5; m.high *= 1e5; })")
    page.evaluate("select(front[0])")
    assert page.evaluate(CUT) == 0


def test_the_command_of_a_point_gives_its_values_and_can_be_run_for_several(tmp_path: Path, open_page: Open) -> None:
    root, config = tmp_path / "sweep", small({"evaluation.lengths": [0.5, 1.0]})
    prepare(config, root)
    run_trial(config, root, "a")
    write_config(config, root / "trials/a/config.yaml")
    for record in read_evaluations(root)[:1]:
        remeasure(root, "a", record.images, root / record.checkpoint, seed=2, samples=64)
    tables = build_tables(root)
    page = open_page(written(root, tables))
    for row in tables.evaluations.to_pylist():
        seen = "(p) => p.images === %d && p.endpoint === '%s' && p.evaluation_seed === %d"
        page.evaluate(f"select(points.find({seen % (row['images'], row['endpoint'], row['evaluation_seed'])}))")
        command = shlex.split(page.locator("#detail code").inner_text())[1:]
        printed = json.loads(good(*command, "--storage", tmp_path / "runs", "--json"))
        (again,) = (each for each in printed["evaluations"] if each["images"] == row["images"])
        assert again["measures"][row["fidelity_measure"]]["value"] == row["fidelity"]
        assert again["measures"][row["memorization_measure"]]["value"] == row["memorization"]


def test_the_first_print_holds_all(tmp_path: Path, open_page: Open) -> None:
    """Of a page that nobody has opened a section of, in dark mode, with more columns than paper has room for."""
    tables = made_up_tables(34)
    page = open_page(written(tmp_path, tables, searched=list(knobs())[10:26]), color_scheme="dark")
    look = """const count = (words) => document.querySelectorAll(words).length
      addEventListener("beforeprint", () => { seen = { folded: count("details:not([open])"), rows: count("#trials tr"),
        charts: count("details .main-svg"), paper: plane.layout.paper_bgcolor, cut: CUT } })"""
    page.evaluate(f"() => {{ {look.replace('CUT', CUT)} }}")
    pages = [len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) for _ in range(2)]
    seen = page.evaluate("seen")
    assert seen.pop("charts") > 5
    assert seen == {"folded": 0, "rows": 35, "cut": 0, "paper": "#ffffff"}
    assert pages[0] == pages[1] > 5
    page.wait_for_function("plane.layout.paper_bgcolor === '#12171e'")
    assert page.evaluate("plane.querySelector('.main-svg').clientWidth === plane.clientWidth")
    assert page.locator("#trials tbody tr").count() == 20
