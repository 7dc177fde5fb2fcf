"""`ambient-sweep measure` as a user calls it, on folders of digits."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import bad, good
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from ambient_sweep.cli import main

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
    return root


Measure = Callable[..., SimpleNamespace]


@pytest.fixture
def measure(sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Measure:
    """Runs the command in this process, with its exit code and what it prints."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*words: object, heldout: str = "heldout") -> SimpleNamespace:
        given = ["measure", "--train", sets / "train", "--heldout", sets / heldout, *words]
        monkeypatch.setattr("sys.argv", ["ambient-sweep", *map(str, given)])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    return run


def refused(done: SimpleNamespace) -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return str(done.stderr)


def test_table_json_and_pictures(measure: Measure, sets: Path, tmp_path: Path) -> None:
    pictures, words = tmp_path / "pictures", ("--generated", sets / "generated", PIXELS, "--without", "kid")
    done = measure(*words, "--json", "--pictures", pictures)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    measures = {row["name"]: row for row in document["generated"][0]["measures"]}
    assert measures["mem_ratio"]["value"] == pytest.approx(0.1, abs=0.007)
    assert measures["mem_excess"]["low"] > 0.05
    for row in measures.values():
        assert {"value", "low", "high", "n", "encoder", "seed", "null"} <= set(row)
    assert "kid" not in measures
    assert (document["train"]["n"], document["heldout"]["n"], document["shape"]) == (400, 300, [1, 8, 8])
    assert sorted(path.name for path in pictures.iterdir()) == ["nearest.png", "similarity-pixels.png"]
    assert f"{measures['mem_ratio']['value']:.4g}" in measure(*words).stdout


def test_a_store_is_measured_by_its_split_and_out_holds_the_json(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, out = tmp_path / "store", tmp_path / "measures.json"
    good("prepare", store, "data.source=folder", f"data.path={sets / 'train'}", "data.train_size=250")
    with zipfile.ZipFile(tmp_path / "samples.zip", "w") as archive:
        for file in (sets / "generated").iterdir():
            archive.write(file, file.name)
    words = ("--generated", tmp_path / "samples.zip", "--train", store, "--heldout", store, PIXELS, "--out", out)
    assert f"--heldout {store}: 150 images" in good("measure", *words)
    document = json.loads(out.read_bytes())
    assert (document["train"]["n"], document["heldout"]["n"]) == (250, 150)
    assert "measures.json already exists" in bad("measure", *words)


def test_corrupt_images_are_skipped_where_that_changes_no_split(sets: Path, tmp_path: Path) -> None:
    for name in ("train", "heldout", "generated"):
        shutil.copytree(sets / name, tmp_path / name)
        (tmp_path / name / "0007.png").write_bytes(b"")
    apart = (
        "--generated",
        tmp_path / "generated",
        "--train",
        tmp_path / "train",
        "--heldout",
        tmp_path / "heldout",
        PIXELS,
    )
    assert "; remove or replace them, or set data.on_corrupt=skip" in bad("measure", *apart)
    printed = good("measure", *apart, "data.on_corrupt=skip")
    assert f"--train {tmp_path / 'train'}: 399 images" in printed
    assert f"{tmp_path / 'heldout'}: skipped: 1 of 300 images cannot be read (0007.png: the file is empty)" in printed
    shared = (*apart[:4], "--heldout", tmp_path / "train", PIXELS, "data.on_corrupt=skip")
    assert "or give the store that `prepare` makes with data.on_corrupt=skip" in bad("measure", *shared)


def test_several_sets(measure: Measure, sets: Path) -> None:
    words = ("--generated", sets / "generated", "--generated", sets / "honest", PIXELS)
    document = json.loads(measure(*words, "--json").stdout)
    assert [Path(each["where"].rpartition(" ")[2]).name for each in document["generated"]] == ["generated", "honest"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--generated", "nowhere"], "--generated nowhere: no such file or folder"),
        ([PIXELS], "Missing option '--generated'"),
        (
            ["--generated", "{sets}/generated", "training.images=3"],
            "training.images: keys must begin with evaluation. or data.so",
        ),
        (
            ["--generated", "{sets}/generated", "data.split.train=a", "data.split.heldout=b"],
            "data.split: splits one place",
        ),
        (["--generated", "{sets}/generated", "data.source=parquet"], "train holds no rows of Parquet files"),
        (["--generated", "{sets}/generated", "--without", "fid"], "--without: fid is not measured"),
        (["--generated", "{sets}/generated", "evaluation.quantile=0.001"], "needs at least 999 held-out images"),
        (["--generated", "{sets}/generated", "--size", "3"], "'--size'"),
        (["--generated", "{sets}/generated", "--pictures", "{sets}/train"], "train already exists"),
        (["--generated", "{sets}/generated", "evaluation.distances=[fd_magic]"], "evaluation.distances"),
        (["--generated", "{sets}/generated", "evaluation.distances=[fd_file]"], "evaluation.encoder_file: missing"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(measure: Measure, sets: Path, words: list[str], line: str) -> None:
    assert line in refused(measure(*(word.format(sets=sets) for word in words)))


def test_libraries_say_nothing_of_odd_files_and_caches(sets: Path, tmp_path: Path) -> None:
    """Pillow warns of what it ignores, libtiff of what it cannot decode, matplotlib of a home that it cannot write."""
    for folder in ("train", "odd"):
        shutil.copytree(sets / "train", tmp_path / folder)
    picture, exif = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)), Image.Exif()
    exif[0x010E] = 60 * "x"
    for name, how in (
        ("exif.png", {"exif": exif.tobytes()[:40]}),
        ("fax.tif", {"compression": "group4"}),
        ("deflate.tif", {"compression": "tiff_adobe_deflate"}),
    ):
        (picture.convert("1") if name == "fax.tif" else picture).save(tmp_path / "odd" / name, **how)
    for name, damage in (("fax.tif", slice(8, 12)), ("deflate.tif", slice(12, 20))):
        content = bytearray((tmp_path / "odd" / name).read_bytes())
        content[damage] = bytes(damage.stop - damage.start)
        (tmp_path / "odd" / name).write_bytes(content)
    (tmp_path / "home").touch()
    environment = {**os.environ, "HOME": str(tmp_path / "home")}
    for variable in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment.pop(variable, None)
    words = [
        "ambient-sweep",
        "measure",
        "--generated",
        str(sets / "generated"),
        "--heldout",
        str(sets / "heldout"),
        PIXELS,
    ]
    words += ["--size", "8", "--channels", "1", "--pictures", str(tmp_path / "pictures"), "--train", str(tmp_path)]
    code = f"""
import sys
from ambient_sweep.cli import main
*words, root = {words!r}
sys.argv = [*words, root + "/train"]
main()
sys.argv = [*words, root + "/odd", "--pictures", root + "/more"]
main()
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, len(list((tmp_path / "pictures").iterdir()))) == (2, 2)
    line = "error: --train .*odd: 2 of 403 images cannot be read .deflate.tif: [^\n]*; fax.tif: [^\n]*\n"
    assert re.fullmatch(line, done.stderr), done.stderr
