import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ambient_sweep.config import DataConfig
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.evaluation_set import ImageSet, check_alike, read_sets, unseen
from ambient_sweep.data.prepare import prepare
from ambient_sweep.data.sources import source_kind
from ambient_sweep.errors import UserError


def read_set(option: str, path: Path, **alike: Any) -> ImageSet:
    (found,) = read_sets([(option, path)], DataConfig(), **alike)
    return found


def scenes(count: int, side: int = 12, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    shape = (count, channels, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder: Path, images: NDArray[np.uint8], mode: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images.transpose(0, 2, 3, 1)):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        (picture.convert(mode) if mode else picture).save(folder / f"{i:03d}.png")
    return folder


def eight_bits(images: ImageSet) -> NDArray[np.uint8]:
    return np.concatenate([block.numpy() for block in images.blocks(3)])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_as_it_is(tmp_path: Path, channels: int) -> None:
    images = scenes(7, channels=channels)
    found = read_set("--train", save(tmp_path, images))
    assert found.shape == (channels, 12, 12)
    assert np.array_equal(eight_bits(found), images)
    assert torch.equal(found.rows(np.array([5, 2])), torch.from_numpy(images[[5, 2]]))


def test_arrays_are_read_as_they_are_and_floats_are_rounded(tmp_path: Path) -> None:
    images = scenes(5)
    wide = images.transpose(0, 2, 3, 1)
    np.save(tmp_path / "plain.npy", wide)
    np.savez(tmp_path / "packed.npz", images=wide, labels=np.arange(5))
    np.save(tmp_path / "unit.npy", images.astype(np.float32) / 255)
    np.save(tmp_path / "signed.npy", images.astype(np.float32) / 127.5 - 1)
    for name in ("plain.npy", "packed.npz", "unit.npy", "signed.npy"):
        assert np.array_equal(eight_bits(read_set("--generated", tmp_path / name)), images)


def test_size_and_channels_make_sets_alike(tmp_path: Path) -> None:
    large = save(tmp_path / "large", np.repeat(np.repeat(scenes(3), 2, axis=2), 2, axis=3))
    grey = save(tmp_path / "grey", scenes(3, channels=1))
    assert np.array_equal(eight_bits(read_set("--train", large, size=12)), scenes(3))
    assert read_set("--train", grey, channels=3).shape == (3, 12, 12)
    with pytest.raises(UserError, match=r"--b .*: images are 12x12 grey, those of --a .* 24x24 RGB; give --size"):
        check_alike(read_set("--a", large), read_set("--b", grey))


def test_sets_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    for number, (mode, shape, message, change) in enumerate(
        (
            ("RGB", (9, 9), r"images of 12x12 \(000.png\) and 9x9 \(odd.png\); give --size", {"size": 12}),
            ("L", (12, 12), r"images that are colour \(000.png\) and grey \(odd.png\); give --chan", {"channels": 1}),
            ("RGBA", (12, 12), r"images that are colour \(000.png\) and transparent \(odd.png\)", {"channels": 3}),
        )
    ):
        folder = save(tmp_path / str(number), scenes(3))
        Image.new(mode, shape).save(folder / "odd.png")
        with pytest.raises(UserError, match=f"--train .*: {message}"):
            read_set("--train", folder)
        assert read_set("--train", folder, **change).shape == (change.get("channels", 3), 12, 12)
    np.save(tmp_path / "wide.npy", np.zeros((2, 12, 8), np.uint8))
    with pytest.raises(UserError, match=r"images of 8x12 \(wide.npy#0\); give --size"):
        read_set("--train", tmp_path / "wide.npy")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "images", scenes(3))
    whole = (folder / "001.png").read_bytes()
    diverged = scenes(5).astype(np.float32) / 255
    diverged[2, 0, 3, 3] = np.nan
    np.save(tmp_path / "some.npy", diverged)
    (tmp_path / "empty").mkdir()
    for content, name, message in (
        (whole[: len(whole) // 2], "images", r"1 of 3 images cannot be read \(001.png: "),  # a header without pixels
        (b"no image", "images", r"1 of 3 images cannot be read \(001.png: not an image"),
        (whole, "some.npy", r"1 of 5 images cannot be read \(some.npy#2: holds NaN"),
        (whole, "nowhere", "no such file or folder"),
        (whole, "empty", "holds no image"),
    ):
        (folder / "001.png").write_bytes(content)
        with pytest.raises(UserError, match=f"--heldout .*{name}: {message}"):
            read_set("--heldout", tmp_path / name)


def test_images_of_another_set_are_told_from_the_rest() -> None:
    train = ImageSet.of("--train", scenes(6))
    heldout = ImageSet.of("--heldout", np.concatenate([scenes(2, seed=1), scenes(6)[[4, 1]]]))
    rows = unseen(heldout, train)
    assert rows.tolist() == [0, 1]
    rest = heldout.subset(rows)
    assert np.array_equal(eight_bits(rest), scenes(2, seed=1))
    assert rest.fingerprint == ImageSet.of("", eight_bits(rest)).fingerprint


def test_fingerprint_is_of_the_pixels_and_their_order(tmp_path: Path) -> None:
    images = scenes(4)
    one = ImageSet.of("a", images)
    assert read_set("b", save(tmp_path, images)).fingerprint == one.fingerprint
    assert ImageSet.of("a", images[::-1]).fingerprint != one.fingerprint
    assert ImageSet.of("a", images.reshape(4, 1, 12, 36)).fingerprint != one.fingerprint


def png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


def table(file: Path, images: NDArray[np.uint8], column: str = "image") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: [{"bytes": png(image), "path": None} for image in images]}), file)
    return file


def records(file: Path, images: NDArray[np.uint8]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    labels = np.arange(len(images), dtype=np.uint8)[:, None]
    file.write_bytes(np.concatenate([labels, images.reshape(len(images), -1)], axis=1).tobytes())
    return file


def zipped(file: Path, folder: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for image in sorted(folder.iterdir()):
            archive.write(image, image.name)
    return file


def stored(out: Path, path: Path, side: int = 12, **how: Any) -> Path:
    data = {"source": source_kind(path), "path": str(path), "image_size": side, "channels": 3, "train_size": 4}
    prepare(out, DataConfig.model_validate(data), lambda line: None, **how)
    return out


def test_every_kind_that_training_reads_gives_the_same_pixels(tmp_path: Path) -> None:
    images = scenes(6, side=32)
    places = {
        "folder": save(tmp_path / "folder", images),
        "zip": zipped(tmp_path / "set.zip", tmp_path / "folder"),
        "parquet": table(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", images),
        "array": tmp_path / "packed.npz",
        "cifar10": tmp_path / "c",
    }
    np.savez(places["array"], images=images, labels=np.arange(6))
    whole = {kind: [place] for kind, place in places.items()}
    whole["parquet"].append(tmp_path / "hub")
    records(tmp_path / "c" / "cifar-10-batches-bin" / "data_batch_1.bin", images[:4])
    records(tmp_path / "c" / "cifar-10-batches-bin" / "test_batch.bin", images[4:])
    whole["cifar10"].append(tmp_path / "c" / "cifar-10-batches-bin")
    for kind, found in whole.items():
        for place in found:
            assert source_kind(place) == kind
            assert np.array_equal(eight_bits(read_set("--train", place)), images), place
            assert read_set("--train", place, size=8, channels=1).shape == (1, 8, 8)
    store = stored(tmp_path / "store", tmp_path / "folder", 32)
    assert source_kind(store) == "store"
    assert np.array_equal(eight_bits(read_set("--generated", store)), images)
    assert read_set("--generated", store, size=8, channels=1).shape == (1, 8, 8)


def test_a_place_of_no_kind_is_refused(tmp_path: Path) -> None:
    table(save(tmp_path / "both", scenes(2)) / "more.parquet", scenes(3))
    assert (source_kind(tmp_path / "both"), len(read_set("--train", tmp_path / "both"))) == ("parquet", 3)
    table(save(tmp_path / "named", scenes(2)) / "metadata.parquet", scenes(2))
    pq.write_table(pa.table({"embedding": [[0.5]] * 3}), tmp_path / "named" / "embeddings.parquet")
    assert source_kind(tmp_path / "named") == "folder"
    assert source_kind(table(tmp_path / "x.pq", scenes(3))) == "parquet"
    stated = read_sets([("--train", tmp_path / "both")], DataConfig(source="folder"))
    assert len(stated[0]) == 2
    (tmp_path / "empty").touch()
    for name, message in (
        ("both/000.png", "not a set of images; give a folder of images, a zip"),
        ("empty", "not a set of images"),
    ):
        with pytest.raises(UserError, match=f"^--train .*{name}: {message}"):
            read_set("--train", tmp_path / name)


def test_a_store_gives_the_images_of_its_split(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", save(tmp_path / "folder", scenes(20)))
    data = load_data(DataConfig(source="store", path=str(store), image_size=12, channels=3))
    train, heldout = read_sets([("--train", store), ("--heldout", store)], DataConfig())
    for mine, pixels, index in ((train, data.train, data.train_index), (heldout, data.heldout, data.heldout_index)):
        assert mine.digests == ImageSet.of("", pixels.subset(index.argsort().numpy())).digests  # in the source's order
    both = [("--train", store), ("--heldout", store)]
    assert [len(each) for each in read_sets(both, DataConfig(train_size=3, heldout_size=2))] == [3, 2]
    with pytest.raises(UserError, match=r"^--train .*store: a store keeps .*; set data.range=null"):
        read_sets(both, DataConfig(range=(0, 1)))
    noisy = stored(tmp_path / "noisy", tmp_path / "folder", observed_sigma=0.1)
    for option in ("--generated", "--train", "--heldout"):
        with pytest.raises(UserError, match=f"^{option} .*noisy: holds only noisy observations; give the store"):
            read_set(option, noisy)


def test_one_place_for_both_is_shared_by_the_split_of_training(tmp_path: Path) -> None:
    images = scenes(7, side=32)
    for part, some in (("train", images[:4]), ("test", images[4:6]), ("validation", images[6:])):
        save(tmp_path / "folders" / part / "cats", some)
        table(tmp_path / "hub" / f"{part}-00000-of-00001.parquet", some)
    np.savez(tmp_path / "set.npz", train_x=images[:4], test_x=images[4:6])
    records(tmp_path / "cifar" / "data_batch_1.bin", images[:4])
    records(tmp_path / "cifar" / "test_batch.bin", images[4:6])
    for name, split in (
        ("folders", {"train": "train", "heldout": "test"}),
        ("hub", {"train": "train", "heldout": "test"}),
        ("set.npz", {"train": "train_x", "heldout": "test_x"}),
        ("cifar", {"train": "train", "heldout": "test"}),
        ("folders", None),
    ):
        data = DataConfig() if split is None else DataConfig.model_validate({"split": split})
        place = tmp_path / name
        train, heldout = read_sets([("--train", place), ("--heldout", place)], data)
        if split is None:
            assert (len(train), len(heldout)) == (4, 3)
            assert not set(train.digests) & set(heldout.digests)
        else:
            assert np.array_equal(eight_bits(train), images[:4])
            assert np.array_equal(eight_bits(heldout), images[4:6])
        assert name == "set.npz" or len(read_set("--generated", place)) == (6 if name == "cifar" else 7)
    places = [("--train", tmp_path / "hub"), ("--heldout", tmp_path / "folders")]
    with pytest.raises(UserError, match=r"^data.split: splits one place; give it as --train and as --heldout"):
        read_sets(places, data.model_validate({"split": {"train": "train", "heldout": "test"}}))


def test_the_range_is_that_of_the_images_of_training_alone(tmp_path: Path) -> None:
    images = scenes(5)
    np.save(tmp_path / "scans.npy", images.astype(np.uint16) * 16)
    places = [("--train", tmp_path / "scans.npy"), ("--generated", save(tmp_path / "made", images))]
    train, made = read_sets(places, DataConfig(range=(0, 255 * 16)))
    assert np.array_equal(eight_bits(train), images)
    assert np.array_equal(eight_bits(made), images)
    assert (train.notes, made.notes) == (
        ("scaled from [0, 4080]; 0.00% of the values lay outside and are clipped",),
        (),
    )


def test_images_that_cannot_be_read_are_found_in_all_sets_at_once(tmp_path: Path) -> None:
    places = [(option, save(tmp_path / option, scenes(8))) for option in ("--generated", "--train", "--heldout")]
    for _, folder in places[1:]:
        for bad in (0, 2, 3, 5, 6):
            (folder / f"{bad:03d}.png").write_bytes(b"")
    with pytest.raises(UserError) as refused:
        read_sets(places, DataConfig())
    (line,) = str(refused.value).splitlines()
    assert line.count("5 of 8 images cannot be read (") == 2
    assert line.count(": the file is empty") == 10
    assert "--generated" not in line


def test_the_column_of_images_may_be_named(tmp_path: Path) -> None:
    images = scenes(3)
    file = table(tmp_path / "hub.parquet", images, "img")
    np.savez(tmp_path / "samples.npz", arr_0=images)
    with pytest.raises(UserError, match=r"^--train .*hub.parquet: has no column image; it has img"):
        read_set("--train", file)
    places = [("--train", file), ("--generated", tmp_path / "samples.npz")]
    for found in read_sets(places, DataConfig(image_column="img")):
        assert np.array_equal(eight_bits(found), images)
