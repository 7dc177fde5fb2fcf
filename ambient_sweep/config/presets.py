"""Networks of known sizes: `model.preset` sets the model keys that are not given beside it."""

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]


def _unet(width: int, blocks: int, multipliers: list[int], attention: list[int], head_width: int = 64) -> Values:
    return {
        "kind": "unet", "width": width, "blocks": blocks, "levels": len(multipliers), "multipliers": multipliers,
        "attention": attention, "head_width": head_width, "patch": 2,
    }  # fmt: skip


def _dit(width: int, blocks: int, patch: int, head_width: int = 64) -> Values:
    return {
        "kind": "dit", "width": width, "blocks": blocks, "levels": 1, "multipliers": [], "attention": [],
        "head_width": head_width, "patch": patch,
    }  # fmt: skip


# docs/networks.md lists their sizes.
MODEL: dict[str, Values] = {
    "custom": {},
    "unet-8": _unet(32, 1, [1, 1], [], head_width=32),
    "unet-32": _unet(128, 4, [2, 2, 2], [16]),
    "unet-32-small": _unet(24, 1, [1, 2, 3], []),
    "unet-64": _unet(128, 4, [1, 2, 2, 2], [16]),
    "unet-64-small": _unet(16, 1, [1, 2, 4, 4], []),
    "unet-256": _unet(128, 2, [1, 1, 2, 2, 4, 4], [16]),
    "dit-8": _dit(64, 6, 2, head_width=32),
    "dit-32": _dit(384, 12, 2),
    "dit-64": _dit(768, 12, 4),
    "dit-256": _dit(768, 12, 8),
}


def expand_preset(layer: Values) -> dict[str, Any]:
    """`layer` (dotted keys) with the values of its model preset, where it names one, under its own."""
    name = layer.get("model.preset")
    values = MODEL[name] if isinstance(name, str) and name in MODEL else {}
    return {f"model.{key}": value for key, value in values.items()} | dict(layer)
