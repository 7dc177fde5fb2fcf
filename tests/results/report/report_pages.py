"""Reports of made-up sweeps in a real browser: opened from disk, without a network."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_tables import SEARCHED
from playwright.sync_api import Browser, Page, sync_playwright

from ambient_sweep.results import select
from ambient_sweep.results.report.document import Importance
from ambient_sweep.results.report.page import write_report
from ambient_sweep.results.tables.parquet import Tables

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--headless=new", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"]
SIZE = {"width": 1200, "height": 900}
IMPORTANCE = Importance(dict.fromkeys(SEARCHED, (0.25, 0.25)), "PED-ANOVA on 100 evaluations")
Open = Callable[..., Page]
CUT = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"  # tables
DRAWN = "plane.data.filter((t) => t.customdata).reduce((n, t) => n + t.x.length, 0)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing; install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a file; the test fails for any request but of files and data, and for any error in the console."""
    faults: list[str] = []
    contexts = []

    def open_page(path: Path, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": SIZE, "offline": True} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def written(root: Path, tables: Tables, *, sentence: str = "Noise buys something.", searched: Any = SEARCHED) -> Path:
    path = root / "report.html"
    choice = select(tables.evaluations, "knee") if tables.evaluations.num_rows else None
    write_report(path, tables, choice, root / "best.yaml", sentence=sentence, searched=searched, importance=IMPORTANCE)
    return path


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(open)")


def place(page: Page, index: int) -> tuple[float, float]:
    """Where a point of the frontier is on the screen, by its number along it."""
    page.locator("#plane").scroll_into_view_if_needed()
    front, _ring = page.locator("#plane .trace.scatter").all()[-2:]
    box = front.locator(".point").nth(index).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
