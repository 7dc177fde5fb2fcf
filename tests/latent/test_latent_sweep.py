"""A sweep of LoRA on latents from the command line, as docs/latent.md has it, on a tiny base."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from command_line import good

from ambient_sweep.data.store import read_info, store_keys

pytestmark = pytest.mark.xdist_group("ray")


def test_a_sweep_of_latents_comes_to_the_same_tables_and_report(
    latents: Path, pixels: Path, sdxl: Path, tmp_path: Path, ray_head: None
) -> None:
    sweep = {
        "base": {
            **store_keys(latents, read_info(latents)), "model": {"kind": "lora", "base": str(sdxl), "conditional": True},
            "noise.law": "timesteps", "training": {"images": 16, "batch_size": 4},
            "sampling": {"steps": 2, "sigma_max": 14.6, "mode": "fast", "batch_size": 12},
            "evaluation": {"path": str(pixels), "samples": 12, "lengths": [1.0], "quantile": 0.05},
        },
        "space": {"observed.sigma": {"choice": [0.344, 0.696, 1.618]}, "consistency.weight": {"choice": [0.3, 3.0]}},
        "search": {"sampler": "grid"},
        "confirm": {"samples": 0},
    }  # fmt: skip
    file, root = tmp_path / "tiny.yaml", tmp_path / "runs" / "tiny"
    file.write_text(yaml.safe_dump(sweep))
    assert "observed.sigma: 0.344 = t 100, 0.696 = t 250, 1.618 = t 500" in good("validate", file)
    said = good("run", file, "--storage", root.parent)
    for text in (said, good("best", root), (root / "report.html").read_text()):
        assert "Untouched base: " in text
    trials = pq.read_table(root / "trials.parquet").to_pylist()
    assert [trial["status"] for trial in trials] == ["completed"] * 8
    assert sorted(trial["role"] for trial in trials) == ["baseline", "control", *["search"] * 6]
    rows = pq.read_table(root / "evaluations.parquet").to_pylist()
    searched = {(row["observed.sigma"], row["consistency.weight"]) for row in rows if row["role"] == "search"}
    assert len(searched) == 6
    assert {row["role"] for row in rows if row["on_front"]} <= {"search", "baseline"}
    assert sum(row["on_front"] for row in rows) > 0
    assert {"report.html", "frontier.png", "best.yaml"} <= {path.name for path in root.iterdir()}
