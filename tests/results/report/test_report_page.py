"""The report in a real browser: opened from disk, without a network."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from made_up_tables import SEARCHED, made_up_tables, write_pictures
from report_pages import CUT, DRAWN, SIZE, Open, place, unfold, written

from ambient_sweep.results import read_table, select
from ambient_sweep.results.frontier.candidates import frontier
from ambient_sweep.results.report.page import number, setting
from ambient_sweep.results.tables.parquet import Tables

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tables]:
    """The report of 34 trials, and their tables."""
    root, tables = tmp_path_factory.mktemp("page") / "digits", made_up_tables(34)
    write_pictures(root, tables.evaluations)
    return written(root, tables), tables


def test_the_top_states_sentence_choice_and_command(sweep: tuple[Path, Tables], open_page: Open) -> None:
    path, tables = sweep
    page, chosen = open_page(path), select(tables.evaluations, "knee").row
    assert page.title() == "digits, ambient-sweep"
    assert page.locator(".lead").inner_text() == "Noise buys something."
    assert page.locator(".command code").first.inner_text() == f"ambient-sweep train {path.parent / 'best.yaml'}"
    assert f"{chosen['fidelity']:.3f}" in page.locator(".facts").inner_text()
    assert page.locator("#detail h3").inner_text().startswith(f"Chosen: trial {chosen['trial_id']}, noise level")
    assert page.evaluate("points.length") == tables.evaluations.num_rows
    assert page.evaluate("front.length") == sum(tables.evaluations["on_front"].to_pylist())


def test_a_click_shows_config_samples_and_measures_of_a_point(sweep: tuple[Path, Tables], open_page: Open) -> None:
    path, tables = sweep
    page = open_page(path)
    row = tables.evaluations.filter(tables.evaluations["on_front"]).sort_by("memorization").to_pylist()[0]
    page.mouse.click(*place(page, 0))
    page.wait_for_function(f"document.querySelector('#detail h3').textContent.includes('{row['trial_id']}')")
    command = page.locator("#detail code").inner_text()
    config = path.parent / "trials" / row["trial_id"] / "config.yaml"
    words = [
        f"evaluation.endpoints=[{row['endpoint']}]",
        f"training.stop={row['fraction']:g}",
        "evaluation.samples=500",
    ]
    name = f"{row['trial_id']}-{row['images']}-{row['endpoint']}-seed-0"
    assert shlex.split(command) == [
        "ambient-sweep", "train", str(config), *words, "evaluation.seed=0", "--name", name,
    ]  # fmt: skip
    assert page.evaluate("document.querySelector('#detail img').naturalWidth") > 100
    text = page.locator("#detail .columns").inner_text()
    assert "as near to a training image as the nearest 1\u00a0% of held-out images" in text
    assert {"fd_classifier", "mem_excess", "mem_ratio"} <= set(text.split())


def test_hovering_joins_the_checkpoints_of_a_trial(sweep: tuple[Path, Tables], open_page: Open) -> None:
    page = open_page(sweep[0])
    trial = page.evaluate("front.find((p) => points.filter((q) => q.trial_id === p.trial_id).length > 2).trial_id")
    index = page.evaluate("(id) => front.findIndex((p) => p.trial_id === id)", trial)
    page.mouse.move(*place(page, index), steps=3)
    page.wait_for_function("plane.layout.shapes?.length && document.querySelector('.hoverlayer .hovertext')")
    text = page.locator(".hoverlayer").text_content() or ""
    assert trial in text
    assert "on 500 samples" in text
    count = sum(name == trial for name in sweep[1].evaluations["trial_id"].to_pylist())
    assert page.locator("#plane .shapelayer path").get_attribute("d").count("L") == count - 1
    page.mouse.move(5, 5)
    page.wait_for_function("!plane.layout.shapes.length")


def test_the_switch_leaves_full_lengths_or_one_point_per_trial(sweep: tuple[Path, Tables], open_page: Open) -> None:
    path, tables = sweep
    page, rows = open_page(path), tables.evaluations.to_pylist()
    assert page.evaluate(DRAWN) == len(rows)
    page.locator("text=Full length only").click()
    assert page.evaluate(DRAWN) == sum(row["fraction"] == 1 or row["on_front"] for row in rows)
    page.locator("text=One per trial").click()
    last = {row["trial_id"]: row["images"] for row in sorted(rows, key=lambda row: row["images"])}
    assert page.evaluate(DRAWN) == sum(row["images"] == last[row["trial_id"]] or row["on_front"] for row in rows)


def test_outliers_lie_on_the_edge_and_are_counted(sweep: tuple[Path, Tables], open_page: Open) -> None:
    page = open_page(sweep[0])
    top, right = page.evaluate("[data.window.fidelity[1], data.window.memorization[1]]")
    far = [row for row in sweep[1].evaluations.to_pylist() if row["fidelity"] > top or row["memorization"] > right]
    assert far
    assert f"{len(far)} beyond the axes" in page.locator("#caption").inner_text()
    assert page.evaluate("Math.max(...plane.data.flatMap((t) => (t.customdata ? t.y : [])))") == top


def test_brushing_selects_trials(sweep: tuple[Path, Tables], open_page: Open) -> None:
    page = open_page(sweep[0])
    page.locator("#parallel summary").click()
    axis = page.locator("#parallel .axis-brush .background-cap, #parallel .axis-brush").first
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    assert box is not None
    x, low = box["x"] + box["width"] / 2, box["y"] + box["height"]
    page.mouse.move(x, low - 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(x, low - 0.8 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_function("document.querySelector('#parallel .told').textContent.startsWith('Selected: ')")
    selected, of = map(int, re.findall(r"\d+", page.locator("#parallel .told").inner_text())[:2])
    searched = {row["trial_id"] for row in sweep[1].evaluations.to_pylist() if row["role"] == "search"}
    assert 0 < selected < of == len(searched)


def test_folded_sections_state_what_the_tables_hold(sweep: tuple[Path, Tables], open_page: Open) -> None:
    path, tables = sweep
    page, trials = open_page(path), tables.trials.to_pylist()
    unfold(page)
    executed = sum(row["images_executed"] for row in trials)
    assert f"{executed:,} were." in page.locator("#savings").inner_text()
    assert page.evaluate("data.hypervolume.images.at(-1)") == executed
    assert page.evaluate("data.hypervolume.share.at(-1)") == 1
    assert "loss is not finite at image N" in page.locator("#failures").inner_text()
    assert page.locator("#trials tbody tr").count() == 20
    page.locator("#trials button", has_text="Next").click()
    assert "34 of 34" in page.locator("#trials .pager").inner_text()
    assert page.locator("#trials tbody tr").count() == 14
    page.locator("#trials input").fill("FAILED")
    failed = sum(row["status"] == "failed" for row in trials)
    assert page.locator("#trials tbody tr").count() == failed
    assert "PED-ANOVA on 100 evaluations" in page.locator("#importance").inner_text()
    assert page.locator("#importance .bars .point").count() == 2 * len(SEARCHED)
    assert "2.9.0" in page.locator("#provenance").inner_text()
    texts = page.evaluate(
        "[...document.body.children].map((e) => (e.tagName === 'SCRIPT' ? '' : e.textContent)).join(' ')"
    )
    assert "fidelity (fd_classifier), lower is better" in texts
    assert not re.search("undefined|NaN|null", texts)
    for value in (0.0055, -0.0095, 12.345, 1234.5678, 0.0625, -0.0625, 1234.5):
        assert page.evaluate("(value) => measured(value)", value) == number(value)
    for value in (0.3, 0.15625, 0.123456, 0.00005, 30.0):
        assert page.evaluate("(value) => number(value)", value) == setting(value)


def test_dark_mode_and_print_change_page_and_charts(sweep: tuple[Path, Tables], open_page: Open) -> None:
    page = open_page(sweep[0], color_scheme="dark")
    papers = "[getComputedStyle(document.body).backgroundColor, plane.layout.paper_bgcolor]"
    assert page.evaluate(papers) == ["rgb(18, 23, 30)", "#12171e"]
    page.emulate_media(color_scheme="light")
    page.wait_for_function("plane.layout.paper_bgcolor === '#ffffff'")
    page.emulate_media(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function("plane.layout.paper_bgcolor === '#ffffff'")
    assert page.evaluate(papers) == ["rgb(255, 255, 255)", "#ffffff"]
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator(".switch").is_visible()
    assert page.evaluate("document.querySelector('#plane .main-svg').clientWidth") <= 700
    page.set_viewport_size({"width": 688, "height": 900})  # between the margins of A4
    assert page.evaluate(CUT) == 0


def test_on_a_phone_nothing_is_wider_than_the_screen(sweep: tuple[Path, Tables], open_page: Open) -> None:
    page = open_page(sweep[0], viewport={"width": 390, "height": 844}, is_mobile=True)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(("trials", "points"), [(1, 4), (5000, 2100)])
def test_one_trial_and_thousands(trials: int, points: int, tmp_path: Path, open_page: Open) -> None:
    tables = made_up_tables(trials, lengths=(0.25, 0.5, 0.75, 1.0) if trials == 1 else (0.75,))
    path = written(tmp_path, tables)
    assert path.stat().st_size < 10_000_000
    page = open_page(path)
    unfold(page)
    shown = page.evaluate("points.length")
    assert min(points, 1000) <= shown <= points
    assert page.evaluate("front.length") == sum(tables.evaluations["on_front"].to_pylist())
    assert page.locator("#trials tbody tr").count() == min(20, trials)
    page.emulate_media(media="print")
    page.wait_for_function("printing")
    left = f"500 of {trials:,} rows; all are in trials.parquet." if trials > 500 else ""
    assert page.locator("#trials .table > .muted").inner_text() == left


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_real_digits_sweep(request: pytest.FixtureRequest, tmp_path: Path, open_page: Open) -> None:
    """With `--write-images RUN`, of a finished `make demo`, the README's pictures are made from it."""
    given = request.config.getoption("--write-images")
    root = given or tmp_path / "digits"
    if not given:
        words = ("run", ROOT / "search_spaces/digits.yaml", "--storage", tmp_path, "--name", "digits")
        subprocess.run([sys.executable, "-m", "ambient_sweep", *words], check=True)
    page = open_page(root / "report.html", viewport={"width": 1000, "height": 1230})
    front = frontier(read_table(root / "evaluations.parquet"))
    assert "Noise buys fd_classifier lower by" in page.locator(".lead").inner_text()
    assert page.evaluate("front.map((p) => p.fidelity)") == pytest.approx(front["fidelity"].to_pylist(), rel=1e-9)
    assert page.locator("#detail img").evaluate("(image) => image.naturalWidth") > 100
    assert "34 trials" in page.locator("header").inner_text()
    page.evaluate("document.querySelector('.command code').textContent = 'ambient-sweep train runs/digits/best.yaml'")
    picture, plot = page.screenshot(), (root / "frontier.png").read_bytes()
    assert 20_000 < len(picture) < 200_000
    if given:
        for name, data in {"digits-report.png": picture, "digits-frontier.png": plot}.items():
            (ROOT / "docs/images" / name).write_bytes(data)


EVIL = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&amp;\n{{ 7*7 }} <b>ü\u2028\u202e名</b> "
    + "x" * 10_000
)


def with_ids(table: pa.Table) -> pa.Table:
    """The table with hostile trial ids, which are names of folders."""
    ids = pa.array([EVIL[:200].replace("/", "\\") + trial_id for trial_id in table["trial_id"].to_pylist()])
    return table.set_column(table.schema.get_field_index("trial_id"), table.schema.field("trial_id"), ids)


def test_hostile_values_are_rendered_harmlessly(tmp_path: Path, open_page: Open) -> None:
    names = ("reason", "device", "versions", "data.path", "data_fingerprint", "consistency.ramp")
    tables = Tables(*(with_ids(table) for table in made_up_tables(14, **dict.fromkeys(names, EVIL))))
    root = tmp_path / "a<i>&\"quoted\" 'name' ü"
    root.mkdir()
    path = written(root, tables, sentence=EVIL)
    page = open_page(path)
    unfold(page)
    assert page.locator("h1").inner_text() == root.name
    assert page.locator("body script:not([src])").count() == 5
    assert page.locator("img:not(#detail img)").count() == page.locator("i, b").count() == 0
    assert "<img src=x onerror" in page.locator("#provenance").inner_text()
    assert "{{ 7*7 }}" in page.locator(".lead").inner_text()
    assert page.evaluate("document.documentElement.scrollHeight") < 15_000
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZE["width"]
    assert path.stat().st_size < 6_000_000


def test_a_sweep_without_any_evaluation(tmp_path: Path, open_page: Open) -> None:
    tables = made_up_tables(6)
    trials = tables.trials.filter([status == "failed" for status in tables.trials["status"].to_pylist()])
    page = open_page(written(tmp_path, Tables(trials, tables.evaluations.slice(0, 0))))
    unfold(page)
    assert "there is no frontier and nothing to choose" in page.locator(".notice").inner_text()
    assert page.locator("#failures tbody tr").count() == 1
    assert page.locator("#plane").count() == 0
