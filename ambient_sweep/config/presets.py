"""Named sets of values: a preset sets the keys of its section that are not given beside it."""

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

# docs/consistency.md says what is taken from the papers, and what is not.
CONSISTENCY: dict[str, Values] = {
    "default": {
        "weight": 0.3, "start": 0.75, "batch_share": 0.5, "origin": "boundary", "chain_steps": 2, "branch": "boundary",
        "levels": "uniform", "lowest": 0.02, "largest_gap": 1.0, "draws": 2, "target": "live", "gradient": "last",
        "level_weight": "boundary",
    },
    "tweedie-2404.10177": {
        "weight": 1.0, "start": 0.0, "batch_share": 0.7, "origin": "everywhere", "chain_steps": 2, "branch": "last",
        "levels": "uniform", "lowest": 0.02, "largest_gap": 0.2, "draws": 2, "target": "live", "gradient": "last",
        "level_weight": "last",
    },
    "noisy-worth-2411.02780": {
        "weight": 1.0, "start": 0.0, "batch_share": 0.29, "origin": "boundary", "chain_steps": 5, "branch": "last",
        "levels": "uniform", "lowest": 0.02, "largest_gap": 1.0, "draws": 6, "target": "live", "gradient": "last",
        "level_weight": "last",
    },
}  # fmt: skip

MODEL: dict[str, Values] = {"custom": {}}

PRESETS: dict[str, dict[str, Values]] = {"consistency": CONSISTENCY, "model": MODEL}


def expand_presets(layer: Values) -> dict[str, Any]:
    """`layer` (dotted keys) with the values of the presets that it names put under its own."""
    expanded: dict[str, Any] = {}
    for section, presets in PRESETS.items():
        name = layer.get(f"{section}.preset")
        if isinstance(name, str) and name in presets:
            expanded.update({f"{section}.{key}": value for key, value in presets[name].items()})
    return expanded | dict(layer)
