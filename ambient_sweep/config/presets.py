"""Named sets of values: a preset sets the keys of its section that are not given beside it."""

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

# docs/consistency.md says what is taken from the papers, and what is not.
CONSISTENCY: dict[str, Values] = {
    "default": {
        "weight": 1.0, "start": 0.5, "batch_share": 0.15, "origin": "boundary", "chain_steps": 2, "branch": "boundary",
        "levels": "loguniform", "lowest": 0.02, "largest_gap": 1.0, "draws": 2, "target": "live", "gradient": "last",
        "level_weight": "boundary",
    },
    "tweedie-2404.10177": {
        "weight": 1.0, "start": 0.0, "batch_share": 0.7, "origin": "everywhere", "chain_steps": 2, "branch": "last",
        "levels": "uniform", "lowest": 0.02, "largest_gap": 0.2, "draws": 2, "target": "live", "gradient": "last",
        "level_weight": "boundary",
    },
    "noisy-worth-2411.02780": {
        "weight": 1.0, "start": 0.0, "batch_share": 1 / 6, "origin": "everywhere", "chain_steps": 5,
        "branch": "boundary", "levels": "lognormal", "lowest": 0.02, "largest_gap": 1.0, "draws": 6, "target": "live",
        "gradient": "last", "level_weight": "boundary",
    },
}  # fmt: skip

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

PRESETS: dict[str, dict[str, Values]] = {"consistency": CONSISTENCY, "model": MODEL}


def expand_presets(layer: Values) -> dict[str, Any]:
    """`layer` (dotted keys) with the values of the presets that it names put under its own."""
    expanded: dict[str, Any] = {}
    for section, presets in PRESETS.items():
        name = layer.get(f"{section}.preset")
        if isinstance(name, str) and name in presets:
            expanded.update({f"{section}.{key}": value for key, value in presets[name].items()})
    return expanded | dict(layer)
