"""Networks of known sizes: `model.preset` sets the model keys that are not given beside it."""

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

# docs/networks.md lists their sizes.
MODEL: dict[str, Values] = {
    "custom": {},
    "unet-8": {
        "kind": "unet", "width": 32, "blocks": 1, "levels": 2, "multipliers": [1, 1], "attention": [],
        "head_width": 32, "patch": 2,
    },
    "unet-32": {
        "kind": "unet", "width": 128, "blocks": 4, "levels": 3, "multipliers": [2, 2, 2], "attention": [16],
        "head_width": 64, "patch": 2,
    },
    "unet-64": {
        "kind": "unet", "width": 128, "blocks": 4, "levels": 4, "multipliers": [1, 2, 2, 2], "attention": [16],
        "head_width": 64, "patch": 2,
    },
    "unet-256": {
        "kind": "unet", "width": 128, "blocks": 2, "levels": 6, "multipliers": [1, 1, 2, 2, 4, 4], "attention": [16],
        "head_width": 64, "patch": 2,
    },
    "dit-8": {
        "kind": "dit", "width": 64, "blocks": 6, "levels": 1, "multipliers": [], "attention": [],
        "head_width": 32, "patch": 2,
    },
    "dit-32": {
        "kind": "dit", "width": 384, "blocks": 12, "levels": 1, "multipliers": [], "attention": [],
        "head_width": 64, "patch": 2,
    },
    "dit-64": {
        "kind": "dit", "width": 768, "blocks": 12, "levels": 1, "multipliers": [], "attention": [],
        "head_width": 64, "patch": 4,
    },
    "dit-256": {
        "kind": "dit", "width": 768, "blocks": 12, "levels": 1, "multipliers": [], "attention": [],
        "head_width": 64, "patch": 8,
    },
}  # fmt: skip


def expand_preset(layer: Values) -> dict[str, Any]:
    """`layer` (dotted keys) with the values of its model preset, where it names one, under its own."""
    name = layer.get("model.preset")
    values = MODEL[name] if isinstance(name, str) and name in MODEL else {}
    return {f"model.{key}": value for key, value in values.items()} | dict(layer)
