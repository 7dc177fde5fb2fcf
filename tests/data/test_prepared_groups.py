"""Groups, the publisher's split and captions through the command `prepare`, from files."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter

from ambient_sweep.cli import commands
from ambient_sweep.config import DataConfig
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.store import open_store, read_info


def prepared(*words):
    """What `prepare` prints."""
    done = CliRunner().invoke(commands, ["prepare", *map(str, words)])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


def smooth(count, generator):
    values = gaussian_filter(generator.standard_normal((count, 16, 16)), (0, 1.5, 1.5), mode="wrap")
    return values / values.std((1, 2), keepdims=True)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """The keys of a folder of 20 patients with 10 slices each, no two of them copies, with a metadata file."""
    generator, folder = np.random.default_rng(0), tmp_path_factory.mktemp("scans")
    slices = np.repeat(smooth(20, generator), 10, 0) + 0.25 * smooth(200, generator)
    rows = ["file_name,patient,text"]
    for row, image in enumerate((slices * 30 + 128).clip(0, 255).astype(np.uint8)):
        Image.fromarray(image).save(folder / f"{row % 10}_p{row // 10:02}.png")
        rows.append(f"{row % 10}_p{row // 10:02}.png,{row // 10},{'' if row else 'a scan'}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return ["data.source=folder", f"data.path={folder}", "data.image_size=16", "data.heldout_size=45"]


def test_related_images_are_warned_of_unless_their_groups_are_kept_whole(tmp_path, scans):
    printed = prepared(tmp_path / "torn", *scans)
    assert "0 exact and 0 near copies of it among the held-out images" in printed
    warning = next(line for line in printed.splitlines() if line.startswith("warning"))
    assert "45 of 45 held-out images are related to training images: the nearest lies at a distance of 0." in warning
    assert "data.group_column or data.group_pattern" in warning
    for keys in (["data.group_column=patient"], ["data.group_pattern=_(p[0-9]+)"]):
        out = tmp_path / keys[0][:15]
        printed = prepared(out, *scans, *keys)
        assert "warning" not in printed
        assert (
            f"groups by {keys[0]} are kept whole: 160 images of 16 groups train, 40 images of 4 groups (45 asked for)"
            in printed
        )
        names = open_store(out).names
        data = load_data(DataConfig(source="store", path=str(out), image_size=16))
        train, heldout = (
            {names[row][2:5] for row in index.tolist()} for index in (data.train_index, data.heldout_index)
        )
        assert not train & heldout
        assert (len(train), len(heldout)) == (16, 4)
    assert "warning" not in prepared(tmp_path / "digits")


def test_captions_go_with_clean_images_alone(tmp_path, scans):
    prepared(tmp_path / "one", *scans)
    prepared(tmp_path / "two", "--from", tmp_path / "one", "data.train_size=50")
    for name, count in (("one", 200), ("two", 95)):
        store = open_store(tmp_path / name)
        text = dict(zip(store.names, store.text().tolist(), strict=True))
        assert len(text) == count
        assert all(caption == ("a scan" if name == "0_p00.png" else None) for name, caption in text.items())
    prepared(tmp_path / "noisy", "--from", tmp_path / "one", "--observed-only", 0.2)
    assert not any(b"a scan" in file.read_bytes() for file in (tmp_path / "noisy").iterdir())
    np.savez(tmp_path / "x.npz", image=np.random.default_rng(0).random((20, 8, 8)), text=np.arange(20))
    printed = prepared(tmp_path / "three", "data.source=array", f"data.path={tmp_path / 'x.npz'}")
    assert f"captions are left out: {tmp_path / 'x.npz'}: text: does not hold strings" in printed
    assert "text.json" not in read_info(tmp_path / "three").files


@pytest.mark.parametrize(
    "words", [["data.split={train: train, heldout: test}"], ["data.split.train=train", "data.split.heldout=test"]]
)
def test_the_publishers_split_is_that_of_the_store(tmp_path, words):
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6), ("val", 3)):
        for row in range(count):
            (tmp_path / "set" / part / f"class{row % 2}").mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / part / f"class{row % 2}" / f"{row}.png")
    keys = ["data.source=folder", f"data.path={tmp_path / 'set'}"]
    printed = prepared(tmp_path / "store", *keys, *words)
    assert "publisher's split by name: 12 images in train, 6 in test" in printed
    assert "3 images are in neither part of data.split and are left out (val/class0/0.png" in printed
    info = read_info(tmp_path / "store")
    assert (info.split.train_size, info.split.heldout_size, info.classes) == (12, 6, ("class0", "class1"))
    config = DataConfig(source="folder", path=str(tmp_path / "set"), split={"train": "train", "heldout": "test"})
    assert load_data(config).fingerprint == info.fingerprint
    names = [row["name"] for row in load_data(config).split()["heldout"]]
    assert all(name.startswith("test/") for name in names)
    printed = json.dumps(info.model_dump(mode="json"))
    assert "val/" not in printed
