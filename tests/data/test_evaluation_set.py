from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ambient_sweep.data.evaluation_set import ImageSet, check_alike, read_set, unseen
from ambient_sweep.errors import UserError


def scenes(count: int, side: int = 12, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    shape = (count, channels, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder: Path, images: NDArray[np.uint8], mode: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images.transpose(0, 2, 3, 1)):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        (picture.convert(mode) if mode else picture).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_as_it_is(tmp_path: Path, channels: int) -> None:
    images = scenes(7, channels=channels)
    found = read_set("--train", save(tmp_path, images))
    assert found.shape == (channels, 12, 12)
    assert np.array_equal(found.pixels, images)
    assert found.names[0] == "000.png"
    assert torch.equal(torch.cat(list(found.blocks(3))), torch.from_numpy(images))
    assert torch.equal(found.rows(np.array([5, 2])), torch.from_numpy(images[[5, 2]]))


def test_arrays_are_read_as_they_are_and_floats_are_rounded(tmp_path: Path) -> None:
    images = scenes(5)
    wide = images.transpose(0, 2, 3, 1)
    np.save(tmp_path / "plain.npy", wide)
    np.savez(tmp_path / "packed.npz", images=wide, labels=np.arange(5))
    np.save(tmp_path / "unit.npy", images.astype(np.float32) / 255)
    np.save(tmp_path / "signed.npy", images.astype(np.float32) / 127.5 - 1)
    for name in ("plain.npy", "packed.npz", "unit.npy", "signed.npy"):
        assert np.array_equal(read_set("--generated", tmp_path / name).pixels, images)


def test_size_and_channels_make_sets_alike(tmp_path: Path) -> None:
    large = save(tmp_path / "large", np.repeat(np.repeat(scenes(3), 2, axis=2), 2, axis=3))
    grey = save(tmp_path / "grey", scenes(3, channels=1))
    assert np.array_equal(read_set("--train", large, size=12).pixels, scenes(3))
    assert read_set("--train", grey, channels=3).shape == (3, 12, 12)
    with pytest.raises(UserError, match=r"--b .*: images are 12x12 grey, those of --a .* 24x24 RGB; give --size"):
        check_alike(read_set("--a", large), read_set("--b", grey))


def test_what_is_not_alike_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "sizes", scenes(3))
    Image.new("RGB", (9, 9)).save(folder / "odd.png")
    with pytest.raises(UserError, match=r"--train .*: images of several sizes, 12x12 \(000.png\) and 9x9 \(odd.png\)"):
        read_set("--train", folder)
    assert len(read_set("--train", folder, size=12)) == 4
    folder = save(tmp_path / "kinds", scenes(3))
    Image.new("L", (12, 12)).save(folder / "a.png")
    with pytest.raises(UserError, match=r"images that are colour \(000.png\) and grey \(a.png\); give --channels"):
        read_set("--train", folder)
    assert read_set("--train", folder, channels=1).shape == (1, 12, 12)
    folder = save(tmp_path / "alpha", scenes(3), mode="RGBA")
    with pytest.raises(UserError, match=r"images that are transparent \(000.png\); give --channels"):
        read_set("--train", folder)
    assert np.array_equal(read_set("--train", folder, channels=3).pixels, scenes(3))
    (tmp_path / "wide").mkdir()
    Image.new("RGB", (12, 8)).save(tmp_path / "wide" / "a.png")
    with pytest.raises(UserError, match="images of 12x8 are not square; give --size"):
        read_set("--train", tmp_path / "wide")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "images", scenes(3))
    whole = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(whole[: len(whole) // 2])  # the header is there, the pixels are not
    with pytest.raises(UserError, match=r"--heldout .*: 1 of 3 images cannot be read \(001.png: "):
        read_set("--heldout", folder)
    (folder / "001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 3 images cannot be read \(001.png: not an image"):
        read_set("--heldout", folder)
    diverged = scenes(5).astype(np.float32) / 255
    diverged[2, 0, 3, 3] = np.nan
    np.save(tmp_path / "some.npy", diverged)
    with pytest.raises(UserError, match=r"--generated .*: 1 of 5 images cannot be read \(some.npy#2: holds NaN"):
        read_set("--generated", tmp_path / "some.npy")
    with pytest.raises(UserError, match=r"--train .*nowhere: no such folder"):
        read_set("--train", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--train .*empty: holds no image"):
        read_set("--train", tmp_path / "empty")


def test_images_of_another_set_are_told_from_the_rest() -> None:
    train = ImageSet.of("--train", scenes(6))
    heldout = ImageSet.of("--heldout", np.concatenate([scenes(2, seed=1), train.pixels[[4, 1]]]))
    rows = unseen(heldout, train)
    assert rows.tolist() == [0, 1]
    rest = heldout.subset(rows)
    assert np.array_equal(rest.pixels, scenes(2, seed=1))
    assert (rest.names, rest.fingerprint) == (["image 0", "image 1"], ImageSet.of("", rest.pixels).fingerprint)


def test_fingerprint_is_of_the_pixels_and_their_order(tmp_path: Path) -> None:
    images = scenes(4)
    one = ImageSet.of("a", images)
    assert read_set("b", save(tmp_path, images)).fingerprint == one.fingerprint
    assert ImageSet.of("a", images[::-1]).fingerprint != one.fingerprint
    assert ImageSet.of("a", images.reshape(4, 1, 12, 36)).fingerprint != one.fingerprint
