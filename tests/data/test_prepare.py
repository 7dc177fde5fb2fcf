import errno
import json
import multiprocessing
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_up import MadeUp, pictures, store_of, use
from PIL import Image
from scipy import stats

from ambient_sweep.cli import commands, main
from ambient_sweep.config import DataConfig, ObservedConfig, build_config, parse_overrides
from ambient_sweep.data import observed as observed_module
from ambient_sweep.data import split as split_module
from ambient_sweep.data.dataset import load_clean, load_data
from ambient_sweep.data.observed import observe
from ambient_sweep.data.prepare import Options, prepare, summary
from ambient_sweep.data.store import StoreWriter, open_store, read_info, verify_store
from ambient_sweep.errors import UserError


@pytest.fixture
def source():
    return MadeUp(pictures(60), labels=np.arange(60) % 2, classes=("cats", "dogs"))


@pytest.fixture
def config(source, monkeypatch):
    monkeypatch.setattr(split_module, "BLOCK_BYTES", 7 * 8 * 8 * 3)
    return use(monkeypatch, source, train_size=40, heldout_size=15)


def whole_config(data: DataConfig, **values):
    keys = {f"data.{key}": value for key, value in data.model_dump().items()}
    return build_config({"model.kind": "mlp"}, keys, values)


def summed_up(path):
    return " ".join(summary(path, read_info(path)))


# -- clean stores ---------------------------------------------------------------------------------------------------


def test_images_that_cannot_be_read_refuse_the_set_or_are_left_out(tmp_path, source, config):
    source.corrupt = {4: "cut off", 20: "the file is empty"}
    with pytest.raises(
        UserError, match=r"2 of 60 images cannot be read \(photo 004\.png: cut off; .*\); remove or repl"
    ):
        store_of(tmp_path / "store", config)
    assert list(tmp_path.iterdir()) == []
    skip = config.model_copy(update={"on_corrupt": "skip"})
    lines = []
    info = prepare(tmp_path / "store", skip.model_copy(update={"path": "/secret/photos"}), Options(), lines.append)
    first = {"name": "photo 004.png", "reason": "cut off"}
    assert info.corrupt == {"count": 2, "first": [first, {"name": "photo 020.png", "reason": "the file is empty"}]}
    assert "skipped 2 images that cannot be read: photo 004.png: cut off" in summed_up(tmp_path / "store")
    assert (info.count, info.split.train_size, info.split.heldout_size) == (58, 40, 15)
    direct = load_data(skip)
    stored = load_data(DataConfig(source="store", path=str(tmp_path / "store"), channels=3))
    assert direct.fingerprint == stored.fingerprint
    assert torch.equal(direct.train.all(), stored.train.all())
    assert torch.equal(direct.heldout.all(), stored.heldout.all())
    assert "read 60 of 60 images" in lines
    assert len(lines) <= 13
    assert info.source["name"] == "photos"  # and no more of the path
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "store").iterdir())


def test_a_store_may_be_made_from_a_store(tmp_path, source, config):
    first = store_of(tmp_path / "first", config)
    source.images[:] = 0  # nothing is decoded again
    part = first.model_copy(update={"train_size": 25, "heldout_size": 5})
    smaller, data = load_data(part), load_data(store_of(tmp_path / "second", part))
    assert data.fingerprint == smaller.fingerprint
    assert torch.equal(data.train.all(), smaller.train.all())
    assert torch.equal(data.heldout.all(), smaller.heldout.all())
    assert torch.equal(data.train_labels, smaller.train_labels)
    assert data.name(int(data.train_index[0])) == f"photo {data.train_index[0]:03d}.png"
    assert read_info(tmp_path / "second").count == 30


@pytest.mark.parametrize("sigma", [None, 0.2])
def test_a_damaged_store_is_not_prepared_from(tmp_path, config, sigma):
    store, file = store_of(tmp_path / "first", config), tmp_path / "first" / "images.bin"
    content = bytearray(file.read_bytes())
    content[1000] ^= 4
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        store_of(tmp_path / "second", store, observed_sigma=sigma)
    assert str(caught.value) == f"{file}: damaged (its sha256 is not the one in store.json); prepare the store again"
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


# -- all or nothing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, UserError])
@pytest.mark.parametrize("sigma", [None, 0.2])
def test_nothing_is_left_of_an_interrupted_preparation(tmp_path, source, config, failure, sigma):
    source.fail_at, source.failure = 30, failure
    with pytest.raises(failure):
        store_of(tmp_path / "store", config, observed_sigma=sigma)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path, config, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StoreWriter, "images", full)
    with pytest.raises(UserError, match=r"store: cannot be written: No space left on device; nothing is left of it"):
        store_of(tmp_path / "store", config)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_replaced(tmp_path, config):
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("store", "link", "file"):
        with pytest.raises(UserError, match=f"{name}: exists; remove it or give another place"):
            store_of(tmp_path / name, config)
    with pytest.raises(UserError, match="file/store: cannot be written"):
        store_of(tmp_path / "file" / "store", config)


# -- noisy observations alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "lazily"), [(np.uint8, False), (np.float32, True)])
def test_every_level_is_the_same_to_the_bit_as_from_the_clean_images(
    tmp_path, source, config, monkeypatch, dtype, lazily
):
    source.images = pictures(60, dtype=dtype)
    source.sigma = np.where(np.arange(60) % 5 == 0, 0.7, np.nan).astype(np.float32)
    if lazily:
        monkeypatch.setattr(observed_module, "KEPT", 0)
    clean = store_of(tmp_path / "clean", config)
    noisy = store_of(tmp_path / "noisy", config, observed_sigma=0.2, observed_seed=3)
    exported = store_of(tmp_path / "exported", clean, observed_sigma=0.2, observed_seed=3)
    rows = np.random.default_rng(0).permutation(40)
    for sigma in (0.2, 1.5):
        wanted = ObservedConfig(sigma=sigma, base_sigma=0.2, seed=3)
        expected = observe(load_data(clean), wanted).read(rows)
        for store in (noisy, exported):
            found = observe(load_data(store), wanted).read(rows)
            for mine, theirs in zip(found, expected, strict=True):
                assert mine is None if theirs is None else torch.equal(mine, theirs)
    fewer = {"train_size": 10}
    part = observe(load_data(noisy.model_copy(update=fewer)), wanted).read(np.arange(10))[0]
    assert torch.equal(part, observe(load_data(clean.model_copy(update=fewer)), wanted).read(np.arange(10))[0])


def test_a_store_of_observations_holds_nothing_else(tmp_path, source, config):
    source.corrupt = {1: "cut off"}
    skip, folder = config.model_copy(update={"on_corrupt": "skip"}), tmp_path / "noisy"
    stored = store_of(folder, skip, observed_sigma=0.2, observed_seed=3)
    assert {file.name for file in folder.iterdir()} == {
        "store.json", "images.bin", "index.npy", "train_index.npy", "heldout_index.npy", "labels.npy", "duplicates.json"
    }  # fmt: skip
    store, data = open_store(folder), load_data(stored)
    assert sorted(store.train_index) == store.index.tolist()
    assert (store.images.shape, len(data.heldout)) == ((40, 3, 8, 8), 0)
    everything = b"".join(file.read_bytes() for file in folder.iterdir())
    assert b"photo" not in everything
    for row in set(range(60)) - set(store.index.tolist()):
        assert source.images[row].transpose(2, 0, 1).tobytes() not in everything
    # every pixel of a training image differs from the clean one, by noise of the level said
    clean = source.images[store.index].transpose(0, 3, 1, 2) / 127.5 - 1
    noise = (store.images - clean).ravel()
    assert (np.abs(noise) > 1e-7).all()
    assert stats.kstest(noise / 0.2, "norm").pvalue > 1e-3


def test_by_default_the_noise_is_drawn_in_secret(tmp_path, config):
    """A keyed draw can be drawn again and subtracted; a secret one differs every time and is not clipped or rounded."""
    one, two = (load_data(store_of(tmp_path / name, config, observed_sigma=0.5)) for name in ("once", "twice"))
    clean = load_data(config)
    assert one.observed.seed is None
    assert one.fingerprint == two.fingerprint == clean.fingerprint
    assert one.observed.fingerprint != two.observed.fingerprint
    noises = [(data.train.all() - clean.train.all()).flatten() / 0.5 for data in (one, two)]
    assert abs(np.corrcoef(noises[0], noises[1])[0, 1]) < 0.05
    for noise in noises:
        assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-9  # no seed: fails once in a billion runs
    y = observe(one, ObservedConfig(sigma=1.3, base_sigma=0.5, seed=1)).read(np.arange(40))[0]  # any seed adds to it
    assert (y - one.train.all()).std() == pytest.approx(1.2, rel=0.02)
    assert "anyone can" not in summed_up(tmp_path / "once")
    store_of(tmp_path / "keyed", config, observed_sigma=0.5, observed_seed=0)
    assert "warning: anyone can subtract noise drawn by --seed 0" in summed_up(tmp_path / "keyed")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "observed.base_sigma=0.0, observed.seed=0: "),
        ({}, "noisy was made with others; set observed.base_sigma=0.2 observed.seed=3"),
        ({"base_sigma": 0.2}, "set observed.base_sigma=0.2 observed.seed=3"),
        ({"base_sigma": 0.3, "seed": 3}, "set observed.base_sigma=0.2"),
        ({"base_sigma": 0.2, "seed": 3, "clean_fraction": 0.1}, "observed.clean_fraction: "),
        (
            {"base_sigma": 0.2, "seed": 3, "keep_clean": True},
            "objective.kind: ambient_high_clean_low reads clean images",
        ),
    ],
)
def test_settings_that_do_not_go_with_observations_are_refused(tmp_path, config, values, message):
    data = load_data(store_of(tmp_path / "noisy", config, observed_sigma=0.2, observed_seed=3))
    keep_clean = values.pop("keep_clean", False)
    with pytest.raises(UserError, match=re.escape(message)):
        observe(data, ObservedConfig(sigma=0.5, **values), keep_clean)


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, source, config):
    blocks = source.blocks

    def changing(size):
        yield from blocks(size)
        source.images[5] += 1

    source.blocks = changing
    with pytest.raises(UserError, match="/photos: its images changed while they were read"):
        store_of(tmp_path / "noisy", config, observed_sigma=0.2)
    assert list(tmp_path.iterdir()) == []


# -- what evaluation compares with ----------------------------------------------------------------------------------


def test_evaluation_reads_the_clean_store_of_the_same_images(tmp_path, config):
    clean = store_of(tmp_path / "clean", config)
    noisy = store_of(tmp_path / "noisy", clean, observed_sigma=0.2)
    keys = {"observed.base_sigma": 0.2, "evaluation.path": clean.path}
    found = load_clean(whole_config(noisy, **keys))
    assert found.fingerprint == load_data(clean).fingerprint == load_clean(whole_config(clean)).fingerprint
    assert torch.equal(found.heldout.all(), load_data(clean).heldout.all())
    fewer = noisy.model_copy(update={"train_size": 10, "heldout_size": 5})
    assert len(load_clean(whole_config(fewer, **keys)).heldout) == 5
    loads = []
    load_clean(whole_config(clean), lambda data: loads.append(data) or load_data(data))
    assert loads == [clean]


def test_evaluation_refuses_what_is_not_the_clean_images(tmp_path, source, config):
    clean = store_of(tmp_path / "clean", config)
    noisy = store_of(tmp_path / "noisy", clean.model_copy(update={"train_size": 25}), observed_sigma=0.2)
    source.images[0] += 1
    other = store_of(tmp_path / "other", config)
    for path, message in (
        (None, f"data.path: {noisy.path} holds only noisy observations; set evaluation.path=... to a store of the clean"),
        (noisy.path, f"evaluation.path: {noisy.path} holds noisy observations; give the clean store"),
        (other.path, f"evaluation.path: {other.path} holds other images than those behind data.path {noisy.path}; run"),
        (clean.path, f"evaluation.path: {clean.path} splits the images differently from data.path {noisy.path}; "
            "set data.train_size=25 data.heldout_size=15"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=re.escape(message)):
            load_clean(whole_config(noisy, **{"observed.base_sigma": 0.2, "evaluation.path": path}))
    with pytest.raises(UserError, match="noisy: holds only noisy observations; give the store of the clean images"):
        store_of(tmp_path / "store", noisy)


@pytest.mark.parametrize("dropping", [{}, {"drop_duplicates": True, "near": 0.2}])
def test_the_keys_that_are_printed_train_on_smaller_observations(tmp_path, source, config, dropping):
    train = load_data(config).train_index.tolist()
    source.images[train[9]] = source.images[train[2]]
    clean = store_of(tmp_path / "clean", config)
    part = clean.model_copy(update={"train_size": 25, "heldout_size": 10})
    info = prepare(tmp_path / "noisy", part, Options(observed_sigma=0.2, **dropping), lambda line: None)
    lines = summary(tmp_path / "noisy", info)
    assert lines[-1] == (
        f"train with data.source=store data.path={tmp_path / 'noisy'} data.image_size=8 data.channels=3 "
        f"data.train_size={24 if dropping else 25} data.heldout_size=10 observed.base_sigma=0.2 evaluation.path=..."
    )
    printed = parse_overrides(lines[-1].removeprefix("train with ").removesuffix(" evaluation.path=...").split())
    keys = {"model.kind": "mlp", **printed, "evaluation.path": clean.path}
    if dropping:
        alike = "prepared with the same data.* keys and --drop-duplicates --near 0.2"
        assert lines[-2] == f"evaluation.path: a clean store with the same split, {alike}"
        with pytest.raises(UserError, match=re.escape(f"give a clean store {alike}")):
            load_clean(build_config(keys))
        keys["evaluation.path"] = store_of(tmp_path / "alike", part, **dropping).path
    assert load_clean(build_config(keys)).heldout_index.tolist() == load_data(part).heldout_index.tolist()


# -- duplicates -----------------------------------------------------------------------------------------------------


def test_duplicates_are_told_and_dropped_where_that_is_asked_for(tmp_path, source, config):
    plain = load_data(config)
    train, held = plain.train_index.tolist(), plain.heldout_index.tolist()
    source.images[train[9]] = source.images[train[2]]
    source.images[held[4]] = source.images[train[2]]
    source.images[held[6]] = np.clip(source.images[train[30]].astype(int) // 2 + 90, 0, 255)
    told = store_of(tmp_path / "told", config)
    copies = read_info(tmp_path / "told").duplicates
    assert [copies[key] for key in ("train_exact", "train_near", "heldout_exact", "heldout_near")] == [1, 0, 1, 1]
    assert "warning: 2 held-out images are copies of training" in summed_up(tmp_path / "told")
    groups = json.loads((tmp_path / "told" / "duplicates.json").read_text())["groups"]
    assert [[entry["index"] for entry in group["train"]] for group in groups] == [[train[2], train[9]], [train[30]]]
    assert [[entry["name"] for entry in group["heldout"]] for group in groups] == [
        [f"photo {held[4]:03d}.png"], [f"photo {held[6]:03d}.png"]
    ]  # fmt: skip
    assert load_data(told).train_index.tolist() == train

    data = load_data(store_of(tmp_path / "dropped", config, drop_duplicates=True))
    assert data.train_index.tolist() == [i for i in train if i != train[9]]
    assert data.heldout_index.tolist() == [i for i in held if i not in (held[4], held[6])]
    assert "warning" not in summed_up(tmp_path / "dropped")
    assert data.fingerprint != load_data(told).fingerprint
    noisy = store_of(tmp_path / "noisy", config, drop_duplicates=True, observed_sigma=0.1)
    assert load_data(noisy).fingerprint == data.fingerprint
    groups = json.loads((tmp_path / "noisy" / "duplicates.json").read_text())["groups"]
    assert [train[2], train[9]] in [group["train"] for group in groups]
    assert prepare(tmp_path / "exact", config, Options(near=0), print).duplicates["heldout_near"] == 0


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
    assert str(error) == "data.image_size: prepare takes data.train_size and data.heldout_size only"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.source=digits"], "OUT: missing"),
        (["x", "observed.sigma=1"], "observed.sigma: prepare takes data.* only"),
        (["x", "data.sauce=1"], "unknown key 'data.sauce'; did you mean 'data.source'?"),
        (["x", "data.source=store", "data.path=y"], "data.source: to prepare from a store, give it as --from"),
        (["x", "data.image_size=9"], "the digits are 8x8 and grey"),
        (["x", "data.source=folder", "data.image_size=9"], "data.path: missing"),
        (["x", "--from", "nowhere"], "nowhere: not a store"),
        (["x", "--seed", 1], "--seed: needs --observed-only"),
        (["x", "--verify", "y"], "--verify: only reads STORE"),
        (["x", "--observed-only", 0], "0 is not in the range"),
    ],
)  # fmt: skip
def test_bad_words_are_refused_in_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed, code, error = command(*words)
    assert code != 0
    assert message in printed + str(error)
    assert isinstance(error, UserError | SystemExit)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_files_goes_through_the_command(tmp_path):
    """Real files, one of them cut off: refused by name, or skipped and counted; then the same bits as from the folder."""
    photos = tmp_path / "photos"
    for row, image in enumerate(pictures(20, side=12)):
        (photos / f"class{row % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(photos / f"class{row % 2}" / f"{row:02d}.png")
    cut = photos / "class1" / "07.png"
    cut.write_bytes(cut.read_bytes()[:200])
    words = ["data.source=folder", f"data.path={photos}", "data.channels=3", "data.heldout_size=5"]
    assert "1 of 20 images cannot be read (class1/07.png: " in str(command(tmp_path / "store", *words)[2])
    printed, code, _ = command(tmp_path / "store", *words, "data.on_corrupt=skip")
    assert code == 0, printed
    assert "14 training images and 5 held-out images, 3x8x8" in printed
    assert "skipped 1 images that cannot be read: class1/07.png: " in printed
    direct = load_data(DataConfig(source="folder", path=str(photos), on_corrupt="skip", heldout_size=5, channels=3))
    stored = load_data(DataConfig(source="store", path=str(tmp_path / "store"), channels=3))
    assert torch.equal(direct.train.all(), stored.train.all())
    assert torch.equal(direct.train_labels, stored.train_labels)
    assert (direct.fingerprint, direct.classes) == (stored.fingerprint, stored.classes)


class Slow(MadeUp):
    """Takes a minute for each block, and says when it begins."""

    begun = multiprocessing.get_context("fork").Event()

    def blocks(self, size):
        for block in super().blocks(4):
            yield block
            self.begun.set()
            time.sleep(60)


def prepare_slowly(folder, errors):
    os.chdir(folder)
    sys.argv = ["ambient-sweep", "prepare", "store", "data.source=folder", "data.path=x", "data.channels=3"]
    with errors.open("w") as sys.stderr:
        main()


def test_a_signal_leaves_nothing(tmp_path, monkeypatch):
    """SIGTERM, which ends as Ctrl-C does; in a process of its own, since the handler that `main` sets counts."""
    use(monkeypatch, Slow(pictures(40)))
    folder, errors = tmp_path / "folder", tmp_path / "errors.txt"
    folder.mkdir()
    process = multiprocessing.get_context("fork").Process(target=prepare_slowly, args=(folder, errors))
    process.start()
    assert Slow.begun.wait(60)
    assert [path.suffix for path in folder.iterdir()] == [".tmp"]
    process.terminate()
    process.join(60)
    assert (process.exitcode, errors.read_text()) == (1, "error: interrupted; nothing is left of store\n")
    assert list(folder.iterdir()) == []
