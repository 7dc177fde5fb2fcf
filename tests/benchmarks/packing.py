"""What training several models in one pack gains over training them one after another, as ratios of one run.

    python tests/benchmarks/packing.py [SECONDS]

Time is CPU time of one torch thread, with what a step draws made in it too: what a trial costs a core. Each row is a model,
each column a size of pack; every number compares medians over rounds that time both, one right after the other. SECONDS are
spent on each number, or what a few rounds take. Steps before consistency begins and after it are timed apart; the digits
of search_spaces/digits.yaml over a whole run.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from ambient_sweep.config import Config, build_config, read_yaml
from ambient_sweep.models import describe
from ambient_sweep.training.packed_probe import packing_gain

BASE = {
    "training": {"images": 153_600, "batch_size": 64},
    "data": {"image_size": 8, "channels": 1},
    "observed.sigma": 0.3,
}
PLAIN, CONSISTENCY = {"objective.kind": "ambient"}, {"consistency.start": 0.0}
SIZES = (2, 4, 8, 16)
DIGITS = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"


def models() -> Iterator[tuple[str, Config]]:
    for width in (32, 64, 128, 256, 512):
        yield f"mlp, width {width}", build_config(BASE, {"model": {"kind": "mlp", "width": width, "blocks": 2}})
    unet = {"kind": "unet", "width": 16, "blocks": 1, "levels": 2}
    yield "unet, width 16", build_config(BASE, {"model": unet})
    dit = {"kind": "dit", "width": 64, "blocks": 2, "patch": 2, "head_width": 32}
    yield "dit, width 64", build_config(BASE, {"model": dit})


def row(name: str, config: Config, kind: str, seconds: float) -> None:
    size = describe(config.model, (1, 8, 8)).split(" parameters")[0].split(" ", 1)[1]
    gains = [packing_gain(config, count, seconds=seconds) for count in SIZES]
    print(f"{f'{name}, {size} weights':<34}{kind:<14}" + "".join(f"{gain:7.2f}" for gain in gains), flush=True)


def main(seconds: float) -> None:
    torch.set_num_threads(1)
    print(f"images 8x8x1, batch 64, one thread, torch {torch.__version__}; serial time over that in packs of")
    print(f"{'':<48}" + "".join(f"{size:>7}" for size in SIZES))
    row("digits.yaml", build_config(read_yaml(DIGITS)["base"]), "whole run", seconds)
    for name, config in models():
        for kind, changes in (("plain", PLAIN), ("consistency", CONSISTENCY)):
            row(name, build_config(config.model_dump(), changes), kind, seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
