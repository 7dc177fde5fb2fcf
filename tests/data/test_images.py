import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ambient_sweep.config import DataConfig
from ambient_sweep.data.folder import read_image
from ambient_sweep.data.images import load_data
from ambient_sweep.errors import UserError


def photo(path, colour=(200, 100, 50), size=(20, 10), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour).convert(mode)
    image.save(path, **options)
    return path


def folder_config(path, **changes):
    values = {"source": "folder", "path": str(path), "image_size": 4, "channels": 3, "train_size": 2} | changes
    return DataConfig(**values)


def test_digits_are_the_real_ones_split_without_overlap():
    data = load_data(DataConfig(train_size=150))
    assert data.train.shape == (150, 1, 8, 8)
    assert data.heldout.shape == (1647, 1, 8, 8)
    index = torch.cat([data.train_index, data.heldout_index])
    assert sorted(index.tolist()) == list(range(1797))
    real = load_digits()
    for images, labels, where in (
        (data.train, data.train_labels, data.train_index),
        (data.heldout, data.heldout_labels, data.heldout_index),
    ):
        np.testing.assert_allclose(images[:, 0].numpy(), real.images[where] / 8 - 1, atol=1e-6)
        np.testing.assert_array_equal(labels, real.target[where])


def test_the_split_is_seeded_and_told():
    first, again, other = (load_data(DataConfig(train_size=150, split_seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.train_index, again.train_index)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not torch.equal(first.train_index, other.train_index)
    split = first.split()
    assert [row["index"] for row in split["train"]] == first.train_index.tolist()
    assert split["train"][0]["name"] == f"digit-{first.train_index[0]:04d}"


def test_heldout_can_be_limited():
    assert len(load_data(DataConfig(train_size=100, heldout_size=200)).heldout) == 200


def test_a_folder_tree_is_read_in_the_order_of_names(tmp_path):
    photo(tmp_path / "b" / "2.PNG", (255, 0, 0))
    photo(tmp_path / "a" / "deep" / "1.jpeg", (0, 0, 255))
    photo(tmp_path / "b" / "1.jpg", (0, 255, 0))
    photo(tmp_path / "c.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image either")
    data = load_data(folder_config(tmp_path))
    assert data.names == ["a/deep/1.jpeg", "b/1.jpg", "b/2.PNG", "c.png"]
    assert data.shape == (3, 4, 4)
    assert data.train_labels is None  # c.png lies in no class's folder
    (tmp_path / "c.png").unlink()
    photo(tmp_path / "b" / "3.png")
    labels = load_data(folder_config(tmp_path))
    every = dict(
        zip(
            torch.cat([labels.train_index, labels.heldout_index]).tolist(),
            torch.cat([labels.train_labels, labels.heldout_labels]).tolist(),
            strict=True,
        )
    )
    assert [every[i] for i in range(4)] == [0, 1, 1, 1]


def test_images_are_cropped_to_the_middle_and_averaged_by_area(tmp_path):
    """Against averages taken by hand."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    middle = pixels[:, 2:10] / 255
    expected = middle.reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(read_image(tmp_path / "x.png", 4, 3), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_read(tmp_path, mode, channels):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    result = read_image(photo(tmp_path / f"x{suffix}", (255, 255, 255), mode=mode), 4, channels)
    assert result.shape == (4, 4, channels)
    np.testing.assert_allclose(result, 1, atol=0.02)


def test_sixteen_bit_grey_keeps_its_depth(tmp_path):
    Image.fromarray(np.full((6, 6), 1000, dtype=np.uint16)).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_image(tmp_path / "x.png", 4, 1), 1000 / 65535, rtol=1e-5)


def test_transparent_parts_are_white_and_cameras_may_lie_on_their_side(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    np.testing.assert_allclose(read_image(tmp_path / "clear.png", 4, 3), 1)
    side = Image.fromarray(np.repeat(np.array([[0, 255]], dtype=np.uint8), 2, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    side.save(tmp_path / "side.png", exif=exif)
    upright = read_image(tmp_path / "side.png", 4, 1)[..., 0]
    assert upright[0, 0] == upright[0, -1] != upright[-1, 0]


def test_bad_folders_and_files_are_named_in_one_line(tmp_path):
    def complaint(config):
        with pytest.raises(UserError) as caught:
            load_data(config)
        message = str(caught.value)
        assert "\n" not in message
        return message

    assert "missing-folder is not a folder" in complaint(folder_config(tmp_path / "missing-folder"))
    assert "holds no image" in complaint(folder_config(tmp_path))
    for name in "abc":
        photo(tmp_path / f"{name}.png")
    assert "3 images are fewer than data.train_size=9" in complaint(folder_config(tmp_path, train_size=9))
    assert "fewer than data.train_size=2 and 2 held out" in complaint(folder_config(tmp_path))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    assert "b.png: cannot be read as an image" in complaint(folder_config(tmp_path, train_size=1 + 1))
    (tmp_path / "b.png").write_text("plain text")
    assert "b.png: cannot be read as an image" in complaint(folder_config(tmp_path))
    (tmp_path / "b.png").write_bytes(b"")
    assert "b.png: cannot be read as an image" in complaint(folder_config(tmp_path))
