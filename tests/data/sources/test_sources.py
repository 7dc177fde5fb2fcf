"""What holds for every source."""

from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import complaint, config, damaged, encoded, noise, opened, outcome, pack

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources import open_source

KINDS = get_args(DataConfig.model_fields["source"].annotation)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"digits", "store"}))
def test_a_missing_path_is_named_by_every_source(tmp_path, kind):
    assert "data.path: missing" in complaint(open_source, DataConfig(source=kind))
    message = complaint(opened, kind, tmp_path / "nowhere")
    assert "nowhere" in message
    assert "data.path" in message


def test_sources_without_levels_and_stores_are_refused(tmp_path):
    assert "digits: has no column sigma; it has label" in complaint(open_source, DataConfig(sigma_column="sigma"))
    assert "data.source: store" in complaint(open_source, config("store", tmp_path))


def made(kind, path):
    """A whole file of this kind, as bytes."""
    pixels, levels = noise(8), np.full(8, 0.5)
    images = [encoded(image) for image in pixels]
    if kind == "zip":
        pack(
            path,
            {f"{row}.png": image for row, image in enumerate(images)}
            | {"metadata.csv": "file_name,sigma\n0.png,0.5\n"},
        )
    elif kind == "parquet":
        pq.write_table(pa.table({"image": images, "label": range(8), "sigma": levels}), path, row_group_size=3)
    else:
        with path.open("wb") as file:
            np.savez_compressed(file, image=pixels / 255, label=np.arange(8), sigma=levels)
    return path.read_bytes()


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 500), marks=pytest.mark.slow)], ids=["few", "all"])
@pytest.mark.parametrize("kind", ["zip", "parquet", "array"])
def test_damage_is_refused_or_listed_and_raises_nothing_else(tmp_path, kind, seeds):
    path, outcomes = tmp_path / "x", set()
    whole = made(kind, path)
    for seed in seeds:
        # the end holds the directories of all three
        path.write_bytes(damaged(whole, seed) if seed % 2 else whole[:-400] + damaged(whole[-400:], seed))
        outcomes.add(outcome(kind, path, sigma_column="sigma"))
    assert {"refused"} < outcomes <= {"refused", "listed", "read"}
