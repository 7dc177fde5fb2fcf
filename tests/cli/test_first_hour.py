"""A new user's first hour: the four commands of README's second section, and what is said on the way."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import bad, good
from PIL import Image

from ambient_sweep.config import build_config
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.split import default_heldout
from ambient_sweep.sweep.checks import dry_run
from ambient_sweep.sweep.checks.dry_run import Pace

pytestmark = pytest.mark.xdist_group("ray")
README = Path(__file__).parents[2] / "README.md"
SHORT = [
    "training.images=64", "training.batch_size=32", "model.width=8", "model.multipliers=[1,1,1]", "sampling.steps=2",
    "evaluation.samples=16", "evaluation.lengths=[1.0]", "evaluation.distances=[fd_pixels]",
    "evaluation.fidelity=fd_pixels", "search.trials=1", "search.images=64",
]  # fmt: skip


def photos(folder: Path, count: int, side: int = 32, mode: str = "RGB") -> Path:
    """Colour PNGs in three classes."""
    draw = np.random.Generator(np.random.Philox(0))
    for i in range(count):
        place = folder / ("red", "green", "blue")[i % 3] / f"{i:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
        pixels[..., i % 3] //= 4
        Image.fromarray(pixels).convert(mode).save(place)
    return folder


def prepared(folder: Path, count: int, **more: Any) -> Path:
    """A store of so many photos."""
    store, side, mode = folder / "photos.store", more.get("side", 32), more.get("mode", "RGB")
    keys = f"data.source=folder data.path={photos(folder / 'photos', count, **more)} data.image_size={side}"
    good("prepare", store, *keys.split(), f"data.channels={1 if mode == 'L' else 3}")
    return store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of known speed."""
    monkeypatch.setattr(dry_run, "measure_pace", lambda config, data: Pace(30.0, 90.0))


@pytest.mark.usefixtures("ray_head")
def test_the_four_commands_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", 300)
    section = README.read_text(encoding="utf-8").split("## Your own images")[1].split("\n## ")[0]
    prepare, init, run, best = [
        shlex.split(line, comments=True)[1:] for line in re.findall(r"^    (.*)$", section, re.M)
    ]
    assert [prepare[0], init[0], run[0], best[0]] == ["prepare", "init", "run", "best"]
    assert "110 held-out images resolve memorization (mem_excess) to about 1/110 = 0.0091" in good(*prepare)
    assert "photos.yaml" in good(*init)
    assert "images: 190 for training and 110 held out, 3x32x32" in good("validate", "photos.yaml")
    printed = good(*run, *SHORT).splitlines()
    for said in (
        "reading the images",
        "preparing what",
        "starting Ray",
        "warning: evaluation.samples=16 resolves mem_excess",
    ):
        assert any(line.startswith(said) for line in printed), said
    assert any("starting workers" in line for line in printed)
    assert "its recipe was trained once" in good(*best)
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["model"]["preset"] == "unet-32-small"


@pytest.mark.parametrize(
    ("count", "heldout"), [(4, 2), (100, 50), (198, 99), (300, 110), (980, 110), (981, 99), (1000, 100), (1797, 180)]
)
def test_small_sets_hold_out_what_evaluation_needs_and_large_ones_a_tenth(count: int, heldout: int) -> None:
    assert default_heldout(count) == heldout


def test_prepare_names_the_quantile_that_few_held_out_images_allow(tmp_path: Path) -> None:
    keys = f"data.source=folder data.path={photos(tmp_path / 'photos', 60)} data.image_size=8 data.channels=3".split()
    said = (
        "30 held-out images resolve memorization (mem_excess) to about 1/30 = 0.033; set evaluation.quantile=0.0323, "
    )
    assert said + "since 0.01 needs 99\n" in good("prepare", tmp_path / "store", *keys)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("count", "side", "mode", "preset", "quantile"),
    [(300, 32, "RGB", "unet-32-small", 0.01), (40, 28, "L", "unet-32-small", 0.0477),
     (30, 64, "RGB", "unet-64-small", 0.0625), (30, 8, "L", "unet-8", 0.0625), (30, 30, "RGB", "unet-8", 0.0625)],
)  # fmt: skip
def test_init_writes_a_sweep_that_validates_as_it_is(
    tmp_path: Path, count: int, side: int, mode: str, preset: str, quantile: float
) -> None:
    store, file = prepared(tmp_path, count, side=side, mode=mode), tmp_path / "2024 my.yaml"
    good("init", store, "--out", file)
    text = file.read_text()
    base = yaml.safe_load(text)["base"]
    assert (base["model"]["preset"], base["evaluation"]["quantile"]) == (preset, quantile)
    assert len(text.splitlines()) <= 40
    assert "; it takes about" in good("init", store, "--out", tmp_path / "again.yaml")
    assert "expected time on this machine: about" in good("validate", file)
    assert "already exists" in bad("init", store, "--out", file)


@pytest.mark.usefixtures("quick")
def test_init_takes_a_folder_and_nothing_else(tmp_path: Path) -> None:
    good("init", photos(tmp_path / "photos", 12, 70, "L"), "--out", tmp_path / "a.yaml")
    data = yaml.safe_load((tmp_path / "a.yaml").read_text())["base"]["data"]
    assert data == {"source": "folder", "path": str(tmp_path / "photos"), "image_size": 64, "channels": 1}
    good("validate", tmp_path / "a.yaml")
    (tmp_path / "set.zip").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert "decode it first: `ambient-sweep prepare" in bad("init", tmp_path / "set.zip")
    assert "no such store or folder" in bad("init", tmp_path / "none")
    assert "holds no image" in bad("init", tmp_path / "empty")
    store = prepared(tmp_path / "one", 30, side=9)
    assert "prepare the images with a multiple of 4" in bad("init", store)
    good("prepare", tmp_path / "noisy", "--from", store, "--observed-only", "0.2")
    assert "give the store of the clean images" in bad("init", tmp_path / "noisy")


SWEEP = """
base:
  data: {{source: store, path: {path}, image_size: 16, channels: 3}}
  model: {{kind: mlp, width: 16, blocks: 1}}
  evaluation: {{samples: 100, quantile: 0.1}}
space: {{observed.sigma: {{uniform: [0.1, 0.5]}}}}
"""


@pytest.mark.usefixtures("quick", "ray_head")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.path=/no/such.store"], "data.path: /no/such.store cannot be opened"),
        (["data.image_size=32"], "a store keeps the size"),
        (["data.channels=1"], "a store keeps the size"),
        (["data.train_size=900"], "data.train_size: 900 is more than the 15"),
        (
            ["evaluation.quantile=0.01"],
            "s.yaml: mem_excess needs at least 99 held-out images, there are 15: add images "
            "(data.train_size, data.heldout_size), or set evaluation.quantile",
        ),
        (["data.heldout_size=5", "evaluation.quantile=0.3"], "precision needs at least 6 held-out images"),
        (["data.heldout_size=5", "evaluation.quantile=0.3"], "data.heldout_size), or set evaluation.extras=[kid]"),
        (["search.sampler=tep"], "s.yaml: search.sampler: unknown sampler 'tep'; did you mean 'tpe'?"),
        (
            ["evaluation.distances=[fid]", "evaluation.fidelity=fid", "evaluation.weights_folder=/no/folder"],
            "/no/folder is not a folder",
        ),
        (["resources.workers=32"], "a trial needs 32 workers"),
        (["resources.gpus=1"], "a worker needs 1 CPUs and 1 GPUs"),
    ],
)
def test_validate_refuses_what_run_refuses(tmp_path: Path, changes: list[str], message: str) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP.format(path=prepared(tmp_path, 30, side=16)))
    assert message in bad("validate", tmp_path / "s.yaml", *changes)
    assert message in bad("run", tmp_path / "s.yaml", "--storage", tmp_path / "runs", *changes)
    assert not list(tmp_path.glob("runs/*"))


def test_validate_tries_the_compiler_that_the_config_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("{model: {kind: mlp, width: 32, blocks: 1}, training: {images: 640}, compute.compile: true}")
    command = [sys.executable, "-m", "ambient_sweep", "validate", str(file)]
    done = subprocess.run(
        command, env={**os.environ, "CXX": "/bin/false"}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: .*one.yaml: compute.compile: torch.compile failed .*; use compute.compile=false\n", done.stderr
    )


def test_labels_that_a_network_asks_for_are_missed_before_anything_starts(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", np.random.Generator(np.random.Philox(0)).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    file = tmp_path / "s.yaml"
    file.write_text(
        f"base: {{data: {{source: array, path: {tmp_path / 'set.npy'}}}, model.conditional: true}}\n"
        "space: {observed.sigma: {uniform: [0.1, 0.5]}}"
    )
    for command in (("validate", file), ("run", file, "--storage", tmp_path / "runs")):
        for gpus in (0, 1):  # also where the GPUs are elsewhere
            line = bad(*command, f"resources.gpus={gpus}")
            assert line.startswith(f"error: {file}: model.conditional: the images have no class labels")


@pytest.mark.usefixtures("quick")
def test_a_sweep_measures_what_few_held_out_images_allow(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP.format(path=prepared(tmp_path, 30, side=16)))
    default = "evaluation.quantile=0.01"
    assert "; valid" not in bad("validate", tmp_path / "s.yaml", default)
    assert "valid; " in good("validate", tmp_path / "s.yaml", default, "evaluation.memorization=mem_ratio")


def test_validate_tells_the_hours_of_a_large_network_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "measure_pace", lambda config, data: Pace(0.4, 1.2))
    (tmp_path / "c.yaml").write_text(
        f"data: {{source: store, path: {prepared(tmp_path, 200)}, image_size: 32, channels: 3}}\n"
        "model.preset: unet-32\ntraining.images: 14400\nevaluation: {samples: 100, lengths: [1.0]}\n"
        "consistency.start: 1.0\n"
    )
    # 14,400 images at 0.4 per second are 10 hours, and 100 samples of 35 passes at 1.2 per second 0.8
    assert "warning: expected time on this machine: about 11 hours, at 0.4 images" in good(
        "validate", tmp_path / "c.yaml"
    )


def test_the_pace_is_that_of_real_steps() -> None:
    config = build_config({"model": {"kind": "mlp", "width": 16, "blocks": 1}})
    pace = dry_run.measure_pace(config, load_data(config.data))
    assert pace.trained > 100
    assert pace.passed > pace.trained
