import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import bad
from made_up import MadeUp, pictures, store_of, use
from PIL import Image

from ambient_sweep.cli import commands
from ambient_sweep.config import DataConfig
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.prepare import prepare, summary
from ambient_sweep.data.store import read_info, verify_store
from ambient_sweep.errors import UserError


@pytest.fixture
def source():
    return MadeUp(pictures(60), labels=np.arange(60) % 2, classes=("cats", "dogs"))


@pytest.fixture
def config(source, monkeypatch):
    return use(monkeypatch, source, block=7, train_size=40, heldout_size=15)


def summed_up(path):
    return " ".join(summary(path, read_info(path)))


def test_a_store_may_be_made_from_a_store(tmp_path, source, config):
    first = store_of(tmp_path / "first", config)
    source.images[:] = 0  # nothing is decoded again
    part = first.model_copy(update={"train_size": 25, "heldout_size": 5})
    smaller, data = load_data(part), load_data(store_of(tmp_path / "second", part))
    assert data.fingerprint == smaller.fingerprint
    assert torch.equal(data.train[:], smaller.train[:])
    assert torch.equal(data.heldout[:], smaller.heldout[:])
    assert torch.equal(data.train_labels, smaller.train_labels)
    assert data.name(int(data.train_index[0])) == f"photo {data.train_index[0]:03d}.png"
    assert read_info(tmp_path / "second").count == 30


# -- all or nothing -------------------------------------------------------------------------------------------------


def test_a_damaged_store_is_not_prepared_from(tmp_path, config):
    store, file = store_of(tmp_path / "first", config), tmp_path / "first" / "images.bin"
    content = bytearray(file.read_bytes())
    content[1000] ^= 4
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        store_of(tmp_path / "second", store)
    assert str(caught.value) == f"{file}: damaged (its sha256 is not the one in store.json); prepare the store again"
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, UserError])
@pytest.mark.parametrize("sigma", [None, 0.2])
def test_nothing_is_left_of_an_interrupted_preparation(tmp_path, source, config, failure, sigma):
    source.fail_at, source.failure = 30, failure
    with pytest.raises(failure):
        store_of(tmp_path / "store", config, observed_sigma=sigma)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_left(tmp_path, config):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"store: cannot be written: File too large; nothing is left of it"):
            store_of(tmp_path / "store", config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_never_replaced(tmp_path, config):
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("store", "link", "file"):
        with pytest.raises(UserError, match=f"{name}: exists; remove it or give another place"):
            store_of(tmp_path / name, config)
    with pytest.raises(UserError, match="file/store: cannot be written"):
        store_of(tmp_path / "file" / "store", config)


# -- duplicates -----------------------------------------------------------------------------------------------------


def test_duplicates_are_counted_and_dropped_where_that_is_asked_for(tmp_path, source, config):
    plain = load_data(config)
    train, held = plain.train_index.tolist(), plain.heldout_index.tolist()
    source.images[train[9]] = source.images[train[2]]
    source.images[held[4]] = source.images[train[2]]
    source.images[held[6]] = np.clip(source.images[train[30]].astype(int) // 2 + 90, 0, 255)
    told = store_of(tmp_path / "told", config)
    copies = read_info(tmp_path / "told").duplicates
    assert [copies[key] for key in ("train_exact", "train_near", "heldout_exact", "heldout_near")] == [1, 0, 1, 1]
    assert "warning: 2 held-out images are copies of training" in summed_up(tmp_path / "told")
    copies = json.loads((tmp_path / "told" / "duplicates.json").read_text())["copies"]
    found = {entry["copy"]["index"]: entry["of"]["index"] for entry in copies}
    assert found == {train[9]: train[2], held[4]: train[2], held[6]: train[30]}
    assert [entry["copy"]["name"] for entry in copies] == [f"photo {row:03d}.png" for row in found]
    assert load_data(told).train_index.tolist() == train

    data = load_data(store_of(tmp_path / "dropped", config, drop_duplicates=True))
    assert data.train_index.tolist() == [i for i in train if i != train[9]]
    assert data.heldout_index.tolist() == [i for i in held if i not in (held[4], held[6])]
    assert "warning" not in summed_up(tmp_path / "dropped")
    assert data.fingerprint != load_data(told).fingerprint
    noisy = store_of(tmp_path / "noisy", config, drop_duplicates=True, observed_sigma=0.1)
    assert load_data(noisy).fingerprint == data.fingerprint
    copies = json.loads((tmp_path / "noisy" / "duplicates.json").read_text())["copies"]
    assert {"copy": train[9], "of": train[2]} in copies
    assert prepare(tmp_path / "exact", config, print, near=0).duplicates["heldout_near"] == 0


def test_a_set_of_nothing_but_copies_is_refused(tmp_path, source, config):
    source.images[:] = source.images[0]
    with pytest.raises(UserError, match="--drop-duplicates: leaves 1 training and 0 held-out images"):
        store_of(tmp_path / "store", config, drop_duplicates=True)
    assert list(tmp_path.iterdir()) == []
    assert verify_store(Path(store_of(tmp_path / "all", config).path)).duplicates["train_exact"] == 39


# -- the command ----------------------------------------------------------------------------------------------------


def command(*words):
    """What the command line prints, its exit code and its error; in this process."""
    done = CliRunner().invoke(commands, ["prepare", *map(str, words)])
    return done.output, done.exit_code, done.exception


def test_the_command_prepares_exports_and_verifies(tmp_path):
    digits, noisy = tmp_path / "digits", tmp_path / "noisy"
    printed, code, _ = command(digits, "data.train_size=300", "data.heldout_size=200")
    assert code == 0, printed
    assert "300 training images and 200 held-out images, 1x8x8" in printed
    assert f"train with data.source=store data.path={digits} data.image_size=8 data.channels=1" in printed
    printed, code, _ = command(noisy, "--from", digits, "--observed-only", 0.2, "data.train_size=100", "--json")
    assert code == 0, printed
    assert json.loads(printed[printed.index("{") :])["observed"]["sigma"] == 0.2
    printed, code, _ = command("--verify", noisy)
    assert (code, printed.splitlines()[0]) == (0, f"{noisy}: whole")
    (noisy / "images.bin").write_bytes(b"")
    assert "images.bin: damaged (truncated" in str(command("--verify", noisy)[2])
    error = command(tmp_path / "x", "--from", digits, "data.image_size=8")[2]
    assert str(error) == "data.image_size: keys must begin with data.train_size or data.heldout_size here"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.source=digits"], "OUT: missing"),
        (["x", "observed.sigma=1"], "observed.sigma: keys must begin with data. here"),
        (["x", "data.source=store", "data.path=y"], "data.source: to prepare from a store, give it as --from"),
        (["x", "data.source=folder", "data.image_size=9"], "data.path: missing"),
        (["x", "--from", "nowhere"], "nowhere: not a store"),
        (["x", "--verify", "y"], "--verify: only reads STORE"),
    ],
)  # fmt: skip
def test_bad_words_are_refused_in_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, code, error = command(*words)
    assert code != 0
    assert message in str(error)
    assert isinstance(error, UserError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_files_goes_through_the_command(tmp_path):
    """Real files, one of them cut off: refused by name, or skipped and counted; then the same bits as from the folder."""
    photos = tmp_path / "secret" / "photos"
    for row, image in enumerate(pictures(20, side=12)):
        (photos / f"class{row % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(photos / f"class{row % 2}" / f"{row:02d}.png")
    cut, store = photos / "class1" / "07.png", tmp_path / "store"
    cut.write_bytes(cut.read_bytes()[:200])
    words = ["data.source=folder", f"data.path={photos}", "data.channels=3", "data.heldout_size=5"]
    assert "1 of 20 images cannot be read (class1/07.png: " in str(command(store, *words)[2])
    assert not store.exists()
    printed, code, _ = command(store, *words, "data.on_corrupt=skip")
    assert code == 0, printed
    for line in ("14 training images and 5 held-out images, 3x8x8", "skipped 1 images that"):
        assert line in printed
    info = read_info(store)
    assert (info.count, info.corrupt["count"], info.corrupt["first"][0]["name"]) == (19, 1, "class1/07.png")
    assert info.source["name"] == "photos"  # and no more of the path
    assert not any(b"secret" in file.read_bytes() for file in store.iterdir())
    direct = load_data(DataConfig(source="folder", path=str(photos), on_corrupt="skip", heldout_size=5, channels=3))
    stored = load_data(DataConfig(source="store", path=str(store), channels=3))
    for part in ("train", "heldout"):
        assert torch.equal(getattr(direct, part)[:], getattr(stored, part)[:])
    assert torch.equal(direct.train_labels, stored.train_labels)
    assert (direct.fingerprint, direct.classes) == (stored.fingerprint, stored.classes)


class Ended(MadeUp):
    """Gets SIGTERM in the middle."""

    def loaders(self):
        for row, loader in enumerate(super().loaders()):
            if row == 30:
                signal.raise_signal(signal.SIGTERM)
            yield loader


def test_a_signal_leaves_nothing(tmp_path, monkeypatch):
    """SIGTERM ends as Ctrl-C does."""
    use(monkeypatch, Ended(pictures(40)), block=4)
    words = ("prepare", tmp_path / "store", "data.source=folder", "data.path=x", "data.channels=3")
    assert bad(*words, code=1) == f"error: interrupted; nothing is left of {tmp_path / 'store'}"
    assert list(tmp_path.iterdir()) == []
