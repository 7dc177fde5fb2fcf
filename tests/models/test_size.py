"""Weights and operations against closed forms, and the presets against the table in docs/networks.md."""

import re
from pathlib import Path

import pytest

from ambient_sweep.config import ModelConfig, build_config
from ambient_sweep.config.presets import MODEL
from ambient_sweep.models import build_model, count_flops, count_parameters, describe
from ambient_sweep.models.size import on_meta

PRESETS = [name for name in MODEL if name != "custom"]
FREQUENCIES = 16  # of the noise embedding


def embedding_flops(width):
    return 2 * (2 * FREQUENCIES * width + width**2)


def embedding_weights(width, classes=0):
    return 2 * FREQUENCIES * width + width + width**2 + width + ((classes + 1) * width if classes else 0)


def test_unet_of_one_level_by_hand():
    w, c, side = 16, 3, 6
    config = ModelConfig(kind="unet", width=w, blocks=1, levels=1, head_width=8)
    pixels = side**2

    def block(a, b):
        skip = 0 if a == b else a * b
        return pixels * (9 * a * b + 9 * b * b + skip) + w * 2 * b

    attention = pixels * 4 * w * w + 2 * pixels**2 * w  # qkv and out; q k and the weighted sum of v
    convolutions = block(w, w) + 2 * block(w, w) + 2 * block(2 * w, w)  # down, middle, up
    products = pixels * 9 * c * w + convolutions + attention + pixels * 9 * w * c
    assert count_flops(on_meta(config, (c, side, side)), (c, side, side)) == embedding_flops(w) + 2 * products


@pytest.mark.parametrize(("width", "blocks", "patch", "heads"), [(64, 3, 2, 16), (96, 1, 4, 32)])
def test_dit_by_closed_form(width, blocks, patch, heads):
    config = ModelConfig(kind="dit", width=width, blocks=blocks, patch=patch, head_width=heads)
    d, tokens, values = width, (16 // patch) ** 2, 3 * patch**2
    per_block = 24 * tokens * d**2 + 4 * tokens**2 * d + 12 * d**2  # linears, attention, modulation
    ends = 2 * 2 * tokens * values * d + 4 * d**2
    assert count_flops(on_meta(config, (3, 16, 16)), (3, 16, 16)) == embedding_flops(d) + blocks * per_block + ends
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
    parameters, flops = re.search(r"\w+ (.*) parameters, (.*)FLOPs", line).groups()
    assert cells[-3:-1] == [parameters, flops]
