"""`ambient-sweep measure` as a user calls it, on folders of digits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

PIXELS = "evaluation.distances=[fd_pixels]"


def save(folder: Path, images: NDArray[np.uint8]) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    images = np.unique(np.rint(load_digits().images * 255 / 16).astype(np.uint8), axis=0)
    np.random.default_rng(0).shuffle(images)
    generated = images[:300].copy()
    generated[:30] = images[600:630]
    save(root / "generated", generated)
    save(root / "honest", images[:300])
    save(root / "train", images[600:1000])
    save(root / "heldout", images[1000:1300])
    save(root / "mixed", np.concatenate([images[1000:1200], images[600:605]]))
    return root


def measure(
    sets: Path, *words: object, heldout: str = "heldout", home: Path | None = None
) -> subprocess.CompletedProcess:  # type: ignore[type-arg]
    command = [sys.executable, "-m", "ambient_sweep", "measure", "--train", sets / "train", "--heldout", sets / heldout]
    environment = os.environ | {"XDG_CACHE_HOME": str(home or sets / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, command), *map(str, words)], capture_output=True, text=True, env=environment)


def refused(done: subprocess.CompletedProcess) -> str:  # type: ignore[type-arg]
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return str(done.stderr)


def test_table_json_and_pictures(sets: Path, tmp_path: Path) -> None:
    out, pictures = tmp_path / "measures.json", tmp_path / "pictures"
    done = measure(
        sets, "--generated", sets / "generated", "--json", out, "--pictures", pictures, PIXELS, "--without", "kid"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    measures = {row["name"]: row for row in document["generated"][0]["measures"]}
    assert measures["mem_ratio"]["value"] == pytest.approx(0.1, abs=0.007)
    assert measures["mem_excess"]["low"] > 0.05
    for row in measures.values():
        assert {"value", "low", "high", "n", "encoder", "seed", "null"} <= set(row)
    assert "kid" not in measures
    assert (document["train"]["n"], document["heldout"]["n"], document["shape"]) == (400, 300, [1, 8, 8])
    assert sorted(path.name for path in pictures.iterdir()) == ["nearest.png", "similarity-pixels.png"]
    assert f"{measures['mem_ratio']['value']:.4g}" in done.stdout
    assert "is there already" in refused(measure(sets, "--generated", sets / "generated", "--json", out, PIXELS))


def test_several_sets(sets: Path, tmp_path: Path) -> None:
    out = tmp_path / "measures.json"
    words = ("--generated", sets / "generated", "--generated", sets / "honest", "--json", out, PIXELS)
    done = measure(sets, *words)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    across = {row["name"]: row for row in document["across"]}
    values = [
        next(row["value"] for row in each["measures"] if row["name"] == "mem_ratio") for each in document["generated"]
    ]
    assert across["mem_ratio"]["value"] == pytest.approx(np.mean(values))
    assert "mean over 2 sets" in done.stdout


def test_overlap_is_refused_or_dropped(sets: Path) -> None:
    words = ("--generated", sets / "generated", PIXELS)
    line = refused(measure(sets, *words, heldout="mixed"))
    assert "5 of 205 images are training images too (0200.png is 0000.png of --train" in line
    done = measure(sets, *words, "--drop-overlap", heldout="mixed")
    assert done.returncode == 0, done.stderr
    assert "5 held-out images that are training images left out" in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--generated", "nowhere"], "--generated nowhere: no such folder"),
        ([PIXELS], "Missing option '--generated'"),
        (["--generated", "{sets}/generated", "training.images=3"], "training.images: measure takes evaluation.* only"),
        (["--generated", "{sets}/generated", "--without", "fid"], "--without: fid is not measured"),
        (["--generated", "{sets}/generated", "evaluation.quantile=0.001"], "needs at least 999 held-out images"),
        (["--generated", "{sets}/generated", "--device", "tpu"], "--device: tpu is not here; use cpu"),
        (["--generated", "{sets}/generated", "--size", "3"], "'--size'"),
        (["--generated", "{sets}/generated", "--pictures", "{sets}/train"], "train: is there already"),
        (["--generated", "{sets}/generated", "evaluation.distances=[fd_magic]"], "evaluation.distances"),
        (["--generated", "{sets}/generated", "evaluation.distances=[fd_file]"], "evaluation.encoder_file: missing"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(sets: Path, words: list[str], line: str) -> None:
    assert line in refused(measure(sets, *(word.format(sets=sets) for word in words)))
