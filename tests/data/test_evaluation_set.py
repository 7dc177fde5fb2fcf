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


def eight_bits(images: ImageSet) -> NDArray[np.uint8]:
    return np.concatenate([block.numpy() for block in images.blocks(3)])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_read_as_it_is(tmp_path: Path, channels: int) -> None:
    images = scenes(7, channels=channels)
    found = read_set("--train", save(tmp_path, images))
    assert found.shape == (channels, 12, 12)
    assert np.array_equal(eight_bits(found), images)
    assert found.names[0] == "000.png"
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
            ("RGB", (9, 9), r"images of several sizes, 12x12 \(000.png\) and 9x9 \(odd.png\)", {"size": 12}),
            ("L", (12, 12), r"images that are colour \(000.png\) and grey \(odd.png\); give --chan", {"channels": 1}),
            ("RGBA", (12, 12), r"images that are colour \(000.png\) and transparent \(odd.png\)", {"channels": 3}),
        )
    ):
        folder = save(tmp_path / str(number), scenes(3))
        Image.new(mode, shape).save(folder / "odd.png")
        with pytest.raises(UserError, match=f"--train .*: {message}"):
            read_set("--train", folder)
        assert read_set("--train", folder, **change).shape == (change.get("channels", 3), 12, 12)  # type: ignore[arg-type]
    np.save(tmp_path / "wide.npy", np.zeros((2, 12, 8), np.uint8))
    with pytest.raises(UserError, match="images of 8x12 are not square; give --size"):
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
        (whole, "nowhere", "no such folder"),
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
    assert (rest.names, rest.fingerprint) == (["image 0", "image 1"], ImageSet.of("", eight_bits(rest)).fingerprint)


def test_fingerprint_is_of_the_pixels_and_their_order(tmp_path: Path) -> None:
    images = scenes(4)
    one = ImageSet.of("a", images)
    assert read_set("b", save(tmp_path, images)).fingerprint == one.fingerprint
    assert ImageSet.of("a", images[::-1]).fingerprint != one.fingerprint
    assert ImageSet.of("a", images.reshape(4, 1, 12, 36)).fingerprint != one.fingerprint
