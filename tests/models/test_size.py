"""Weights against a closed form, and the presets against the table in docs/networks.md."""

import re
from pathlib import Path

import pytest

from ambient_sweep.config import ModelConfig, build_config
from ambient_sweep.config.presets import MODEL
from ambient_sweep.models import build_model, count_parameters, describe

PRESETS = [name for name in MODEL if name != "custom"]
FREQUENCIES = 16  # of the noise embedding


def embedding_weights(width, classes=0):
    return 2 * FREQUENCIES * width + width + width**2 + width + ((classes + 1) * width if classes else 0)


@pytest.mark.parametrize(("width", "blocks", "patch", "heads"), [(64, 3, 2, 16), (96, 1, 4, 32)])
def test_dit_by_closed_form(width, blocks, patch, heads):
    config = ModelConfig(kind="dit", width=width, blocks=blocks, patch=patch, head_width=heads)
    d, values = width, 3 * patch**2
    per_block = 12 * d**2 + 6 * d**2 + (3 + 1 + 4 + 1 + 6) * d
    ends = 2 * values * d + d + values + 2 * d**2 + 2 * d
    weights = embedding_weights(d) + blocks * per_block + ends
    assert count_parameters(build_model(config, (3, 16, 16), 0)) == weights


# -- presets ----------------------------------------------------------------------------------------------------------


def shape_of(preset):
    side = int(preset.split("-")[1])
    return (1 if side == 8 else 3, side, side)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_complete_and_fit_their_images(preset):
    keys = {"kind", "width", "blocks", "levels", "multipliers", "attention", "head_width", "patch"}
    assert set(MODEL[preset]) == keys
    assert preset.startswith(MODEL[preset]["kind"])
    channels, side, _ = shape_of(preset)
    data = {"image_size": side, "channels": channels} | ({} if side == 8 else {"source": "folder", "path": "images"})
    config = build_config({"data": data, "model": {"preset": preset}})
    assert config.model.model_dump(mode="json", include=keys) == MODEL[preset]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_table_in_the_docs_holds_what_is_counted(preset):
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{preset}` \|(.*)\|$", text, re.MULTILINE)
    assert row, f"docs/networks.md has no row for {preset}"
    cells = [cell.strip() for cell in row[1].split("|")]
    line = describe(ModelConfig(**MODEL[preset]), shape_of(preset))
    assert line == f"{MODEL[preset]['kind']} {cells[-2]} parameters"
