import io
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
from made_up_sweeps import add, fill
from PIL import Image

from ambient_sweep.results.plot import frontier_image, frontier_png
from ambient_sweep.results.table import export_tables


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(image - color).max(axis=2) < 12).sum())


def solid(image: np.ndarray, color: tuple[int, int, int], side: int) -> list[tuple[int, int]]:
    """Where squares of one colour lie, one for all squares that are near each other."""
    match = np.abs(image - color).max(axis=2) < 12
    squares = np.argwhere(np.lib.stride_tricks.sliding_window_view(match, (side, side)).all(axis=(2, 3)))
    found: list[tuple[int, int]] = []
    for y, x in squares.tolist():
        if all(max(abs(y - v), abs(x - u)) > 12 for v, u in found):
            found.append((y, x))
    return found


def test_the_picture_is_written_and_readable(sweep: Path) -> None:
    table = export_tables(sweep).evaluations
    frontier_png(table, sweep / "frontier.png")
    image = pixels((sweep / "frontier.png").read_bytes())
    assert image.shape[1] > 1000
    assert image.shape[0] > 600
    assert not list(sweep.glob(".*"))
    discs = len(solid(image, (0xD1, 0x49, 0x5B), side=7))
    assert discs == 5, "the baseline's four lengths and the legend's mark; its dashes are thinner"


def test_the_baseline_is_drawn_only_where_there_is_one(sweep: Path) -> None:
    table = export_tables(sweep).evaluations
    without = table.filter(pa.array([role != "baseline" for role in table["role"].to_pylist()]))
    assert count(pixels(frontier_image(without)), (0xD1, 0x49, 0x5B)) == 0


def test_odd_tables_are_drawn_too(tmp_path: Path) -> None:
    empty = frontier_image(export_tables(tmp_path).evaluations)
    add(tmp_path, "one", {}, [(-0.5, -0.01)])
    one = frontier_image(export_tables(tmp_path).evaluations)
    add(tmp_path, "clean", {"observed.sigma": 0, "objective.kind": "denoising"}, [(3000.0, 1.0)], role="baseline")
    add(tmp_path, "nan", {}, [(float("nan"), 0.3)])
    two = frontier_image(export_tables(tmp_path).evaluations)
    assert len({empty, one, two}) == 3
    assert min(len(np.unique(pixels(png))) for png in (empty, one, two)) > 10


def test_drawing_uses_no_state_shared_between_threads(tmp_path: Path) -> None:
    table = export_tables(fill(tmp_path, trials=2)).evaluations
    expected, pictures = frontier_image(table), []
    threads = [threading.Thread(target=lambda: pictures.append(frontier_image(table))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pictures == [expected, expected]
