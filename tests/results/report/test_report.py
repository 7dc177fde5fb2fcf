import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from made_up_sweeps import add, fill
from made_up_tables import made_up_tables, write_pictures
from PIL import Image

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.candidates import candidates, frontier, objectives
from ambient_sweep.results.report import pictures
from ambient_sweep.results.report.document import NO_IMPORTANCE, document, first_measurements
from ambient_sweep.results.report.frontier_plot import frontier_figure, frontier_pictures
from ambient_sweep.results.report.window import clean_line, window
from ambient_sweep.results.tables.parquet import Tables
from ambient_sweep.sweep.run import summarize
from ambient_sweep.trial.records import evaluation_path


def test_the_window_holds_the_frontier_half_of_the_candidates_and_no_useless_model() -> None:
    table = made_up_tables(60).evaluations
    rows, front = candidates(table), frontier(table)
    shown = window(rows, front)
    for values, (low, high) in zip(objectives(rows).T, shown, strict=True):
        assert (values < high).mean() > 0.5
        assert values.min() > low
    for name, (low, high) in shown._asdict().items():
        ends = [front[f"{name}{end}"].to_numpy() for end in ("", "_low", "_high")]
        assert low < np.min(ends)
        assert np.max(ends) < high
    assert objectives(rows)[:, 0].max() > 1.5 * shown.fidelity[1]


def test_clean_training_is_averaged_over_seeds_at_each_length() -> None:
    table = made_up_tables(34).evaluations
    rows = [row for row in table.to_pylist() if row["role"] == "baseline"]
    expected = [
        np.mean([(row["fidelity"], row["memorization"]) for row in rows if row["fraction"] == f], axis=0)
        for f in (0.25, 0.5, 0.75, 1.0)
    ]
    np.testing.assert_allclose(clean_line(table), expected)


def test_second_measurements_are_not_what_the_search_went_by(tmp_path: Path) -> None:
    table = made_up_tables(6).evaluations
    at = table.schema.get_field_index("evaluation_seed")
    again = table.set_column(at, table.schema.field(at), pa.array([7] * table.num_rows))
    assert first_measurements(pa.concat_tables([table, again])).equals(table)


# -- sample pictures --------------------------------------------------------------------------------------------------


def test_pictures_are_shrunk_and_end_where_their_bytes_are_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"trial_id": "t", "images": i, "endpoint": "zero"} for i in range(4)]
    places = [evaluation_path(tmp_path, *row.values(), ".png") for row in rows]
    places[0].parent.mkdir(parents=True)
    noise = Image.effect_noise((2000, 500), 50)
    for place in (places[0], places[2], places[3]):
        noise.save(place)
    first = pictures.inline_pictures(tmp_path, rows[:1])[0]
    assert first is not None
    monkeypatch.setattr(pictures, "TOTAL", 2 * len(first["url"]))
    places[1].write_bytes(b"no picture")
    urls = pictures.inline_pictures(tmp_path, rows)
    assert [url is None for url in urls] == [False, True, False, True]
    assert first["url"].startswith("data:image/webp;base64,")


def test_the_frontier_brings_its_pictures(tmp_path: Path) -> None:
    tables = made_up_tables(12)
    write_pictures(tmp_path, tables.evaluations)
    found = document(tmp_path, tables, None, (), NO_IMPORTANCE)
    assert len(found["pictures"]) == len(found["front"]) == frontier(tables.evaluations).num_rows
    assert None not in found["pictures"]


# -- the frontier's picture -------------------------------------------------------------------------------------------


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def reds(png: bytes) -> int:
    """How many pixels have the colour of the baseline."""
    return int((np.abs(pixels(png) - (0xC2, 0x41, 0x0C)).max(axis=2) < 12).sum())


def test_the_picture_shows_the_baseline_where_there_is_one(tmp_path: Path) -> None:
    table = build_tables(fill(tmp_path, trials=2)).evaluations
    assert reds(frontier_pictures(table)["png"]) > 500
    without = table.filter(pa.array([role != "baseline" for role in table["role"].to_pylist()]))
    assert reds(frontier_pictures(without)["png"]) == 0


def test_odd_tables_are_drawn_too(tmp_path: Path) -> None:
    add(tmp_path, "one", {}, [(-0.5, -0.01)])
    one = frontier_pictures(build_tables(tmp_path).evaluations)["png"]
    add(tmp_path, "clean", {"observed.sigma": 0, "objective.kind": "denoising"}, [(3000.0, 1.0)], role="baseline")
    add(tmp_path, "nan", {}, [(float("nan"), 0.3)])
    two = frontier_pictures(build_tables(tmp_path).evaluations)["png"]
    assert one != two
    assert min(len(np.unique(pixels(png))) for png in (one, two)) > 10


@pytest.mark.parametrize("trials", [34, 300])
def test_numbers_of_the_frontier_do_not_overlap(trials: int) -> None:
    table = made_up_tables(trials).evaluations
    figure = frontier_figure(table)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].texts]
    assert 5 < len(boxes) <= frontier(table).num_rows
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    beyond = objectives(candidates(table))[:, 0] > figure.axes[0].get_ylim()[1]
    assert f"{beyond.sum()} beyond the axes" in figure.axes[0].get_title()


def test_values_that_chose_the_frontier_are_pale_and_its_line_never_rises() -> None:
    table = made_up_tables(34).evaluations
    on_front, fidelity = (table[name].to_numpy(zero_copy_only=False).copy() for name in ("on_front", "fidelity"))
    fidelity[np.flatnonzero(on_front)[::2]] *= 1.3  # measured anew, they are worse than some that they beat
    for name, values in {"evaluation_seed": np.where(on_front, 2, 1), "fidelity": fidelity}.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values))
    axes = frontier_figure(table).axes[0]
    (line,) = (line for line in axes.lines if line.get_label() == "frontier (numbered)")
    assert np.all(np.diff(line.get_ydata()) <= 0)
    alphas = [points.get_alpha() for points in axes.collections if isinstance(points.get_alpha(), np.ndarray)]
    assert 0 < (np.concatenate(alphas) == 1).sum() <= on_front.sum() < (np.concatenate(alphas) < 1).sum()
    found = document(Path(), Tables(made_up_tables(34).trials, table), None, (), NO_IMPORTANCE)
    assert found["points"]["choosing"] == (~on_front).tolist()


def test_the_vector_picture_holds_text_and_is_the_same_each_time() -> None:
    table = made_up_tables(12).evaluations
    first, second = (frontier_pictures(table)["svg"] for _ in range(2))
    assert first == second
    text = " ".join("".join(ElementTree.fromstring(first).itertext()).split())
    assert "memorization (mem_excess), lower is better" in text


# -- a sweep that failed ----------------------------------------------------------------------------------------------


def test_a_sweep_that_failed_has_a_report_of_its_failures(tmp_path: Path) -> None:
    for i in range(2):
        add(tmp_path, f"t{i}", {}, [], status="failed", reason=f"loss is not finite at image {6400 * i}")
    with pytest.raises(AmbientSweepError, match="all 2 trials failed"):
        summarize(tmp_path)
    assert "loss is not finite at image N" in (tmp_path / "report.html").read_text()
