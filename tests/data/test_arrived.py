"""Observations made elsewhere: y = x + sigma n that others exported."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ambient_sweep.cli import commands
from ambient_sweep.config import DataConfig, ObservedConfig, build_config, parse_overrides
from ambient_sweep.data.dataset import load_clean, load_data
from ambient_sweep.data.observed import observe
from ambient_sweep.data.store import open_store
from ambient_sweep.errors import UserError

GENERATOR = np.random.default_rng(0)
CLEAN = (2 * np.hanning(10)[1:-1, None] * GENERATOR.random((200, 8, 8)) - 1).astype(np.float32)  # on [-1, 1]
NOISE = GENERATOR.standard_normal(CLEAN.shape)
NOISY = (CLEAN + 0.2 * NOISE).astype(np.float32)
LEVELS = np.tile([0, 0.1, 0.4, 0.4], 50)


def prepared(out, values, *words, size=8, **arrays):
    """What `prepare` prints of the store of `values`, its exit code and its error."""
    file = out.with_suffix(".npz")
    np.savez(file, image=values, **arrays)
    given = ["data.source=array", f"data.path={file}", *map(str, words)]
    given += [] if any(word.startswith("data.image_size=") for word in given) else [f"data.image_size={size}"]
    done = CliRunner().invoke(commands, ["prepare", str(out), *given])
    return done.output, done.exit_code, str(done.exception)


def store(out, values, *words, **arrays):
    """The keys that read the store that `prepare` makes."""
    printed, code, _ = prepared(out, values, *words, **arrays)
    assert code == 0, printed
    (line,) = (line for line in printed.splitlines() if line.startswith("train with "))
    text = line.removeprefix("train with ").removesuffix(" evaluation.path=...")
    return {"model.kind": "mlp", **parse_overrides(text.split())}


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(-1, 1, np.float32), (0, 1, np.float64), (0, 1000, np.float32), (6000, 10000, np.uint16)]
)
def test_observations_of_any_range_are_taken_as_they_are(tmp_path, low, high, kind):
    values = (low + (NOISY.astype(np.float64) + 1) / 2 * (high - low)).astype(kind)
    keys = store(tmp_path / "noisy", values, f"data.range=[{low},{high}]", "--observations", 0.2)
    made = open_store(tmp_path / "noisy")
    np.testing.assert_allclose(made.images[:, 0], NOISY[made.index], atol=1e-3 if kind == np.uint16 else 1e-5)
    assert made.images.min() < -1.2
    assert (len(made.index), made.info.kind, made.info.observed.sigma) == (len(made.train_index), "observed", 0.2)
    assert made.info.observed.elsewhere
    assert "names.json" not in made.info.files
    data = load_data(build_config(keys).data)
    y, sigma, clean, _ = observe(data, ObservedConfig(sigma=0.2, base_sigma=0.2)).read(np.arange(5))
    assert torch.equal(y, data.train[:5])
    assert (sigma == 0.2).all()
    assert clean is None
    higher = observe(data, ObservedConfig(sigma=0.5, base_sigma=0.2)).read(np.arange(len(data.train)))[0]
    assert (higher - data.train[:]).std().item() == pytest.approx((0.5**2 - 0.2**2) ** 0.5, rel=0.03)


def test_each_image_may_have_its_own_level(tmp_path):
    """A clean one stays clean; the others get noise up to observed.sigma, and none is taken away."""
    values = (CLEAN + LEVELS[:, None, None] * NOISE).astype(np.float32)
    keys = store(tmp_path / "noisy", values, "data.range=[-1,1]", "--observations", "level", level=LEVELS)
    assert float(keys["observed.base_sigma"]) == 0.1
    printed = prepared(tmp_path / "again", values, "data.range=[-1,1]", "--observations", "level", level=LEVELS)[0]
    assert printed.splitlines()[-1].startswith("train with ")  # no first sweep, which needs clean images
    data = load_data(build_config(keys).data)
    own = LEVELS[data.train_index.numpy()]
    y, sigma, _, _ = observe(data, ObservedConfig(sigma=0.3, base_sigma=0.1)).read(np.arange(len(own)))
    np.testing.assert_allclose(sigma, np.where(own == 0, 0, np.maximum(own, 0.3)), rtol=1e-6)
    for level, added in ((0, 0), (0.1, (0.3**2 - 0.1**2) ** 0.5), (0.4, 0)):
        difference = (y - data.train[:])[own == level]
        assert difference.square().mean().sqrt().item() == pytest.approx(added, rel=0.05)


def test_evaluation_takes_the_clean_images_behind_the_observations_and_no_others(tmp_path):
    keys = store(tmp_path / "noisy", NOISY, "data.range=[-1,1]", "--observations", 0.2)
    for name, values in (("clean", CLEAN), ("shifted", np.roll(CLEAN, 1, 0)), ("fewer", CLEAN[:-1])):
        store(tmp_path / name, values, "data.range=[-1,1]")
    right = build_config(keys, {"evaluation.path": str(tmp_path / "clean")})
    assert torch.equal(load_clean(right).train_index, load_data(right.data).train_index)
    for name, message in (
        ("shifted", "differ from these images by 0.5"),
        ("fewer", "100 is more than the 99 in .*fewer"),
    ):
        with pytest.raises(UserError, match=message):
            load_clean(build_config(keys, {"evaluation.path": str(tmp_path / name)}))
    keys = store(tmp_path / "wrong", NOISY, "data.range=[-1,1]", "--observations", 0.3)
    with pytest.raises(UserError, match=r"not by noise of 0.3, counted on"):
        load_clean(build_config(keys, {"evaluation.path": str(tmp_path / "clean")}))


EIGHT_BITS = np.rint((NOISY + 1) * 127.5).clip(0, 255).astype(np.uint8)
PARTLY = np.where(np.arange(200)[:, None, None] < 12, np.rint(NOISY * 99) / 99, NOISY)
COLOUR = CLEAN[..., None] + 0.2 * GENERATOR.standard_normal((*CLEAN.shape, 3))
BYTES = np.rint((COLOUR / 2 + 1) * 127.5) / 255
ALTERED = {
    "8 bits, each channel scaled": ((BYTES - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], "[-1,1]", "look rounded"),
    "8 bits of another gamma": (BYTES**2.2, "[0,1]", "of 200 observations look rounded"),
    "a channel clipped": (COLOUR.clip([-9, -9, -0.9], 9), "[-1,1]", "look clipped"),
    "8 bits": (EIGHT_BITS, "[0,255]", "of 200 observations look rounded"),
    "multiples of 1/255": (np.rint((NOISY + 1) / 2 * 255) / 255, "[0,1]", "look rounded; export them as floats"),
    "few values": (np.rint(NOISY * 8) / 8, "[-1,1]", "look rounded"),
    "a part rounded": (PARTLY, "[-1,1]", " of 200 observations look rounded"),
    "constant": (np.zeros((200, 8, 8)), "[-1,1]", "look clipped"),
    "clipped": (NOISY.clip(-1, 1), "[-1,1]", "look clipped"),
    "clipped below": (NOISY.clip(-1.05, None), "[-1,1]", "look clipped"),
    "filled": (np.where(np.arange(8) < 2, 1.7, NOISY), "[-1,1]", "look clipped"),
    "not finite": (np.where(NOISY > 1.2, np.inf, NOISY), "[-1,1]", "holds NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALTERED)
def test_observations_whose_noise_was_altered_are_refused(tmp_path, kind):
    values, limits, message = ALTERED[kind]
    channels = f"data.channels={3 if values.ndim == 4 else 1}"
    _, code, error = prepared(tmp_path / "noisy", values, f"data.range={limits}", channels, "--observations", 0.2)
    assert code == 1
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "noisy").exists()


def test_what_would_change_the_noise_or_says_too_little_is_refused(tmp_path):
    wanted, sigma = "data.range=[-1,1]", ("--observations", 0.2)
    level = {"level": np.where(np.arange(200) == 3, np.nan, 0.2), "none": np.zeros(200)}
    for words, message in (
        ([*sigma], "noisy.npz: set data.range to the values for black and white before the noise"),
        ([wanted, *sigma, "data.channels=3"], "8x8x1: to resize or convert noisy observations changes their noise"),
        ([wanted, *sigma, "data.image_size=4"], "8x8x1: to resize or convert"),
        ([wanted, "--observations", 0], "--observations: 0 must be above 0 and at most 100, or the name of a column"),
        ([wanted, "--observations", "nan"], "nan must be above 0"),
        ([wanted, "--observations", "sigma"], "has no column sigma; it has image, level, none"),
        ([wanted, "--observations", "level"], "noisy.npz: level must give every image its noise level"),
        ([wanted, "--observations", "none"], "none must give every image its noise level, not 0 for all"),
        ([wanted, *sigma, "data.sigma_column=level"], "--observations: does not go with"),
        ([wanted, *sigma, "--observed-only", 0.3], "--observations: does not go with --observed-only"),
        ([], "for images that were exported with noise: prepare --observations"),
    ):
        _, code, error = prepared(tmp_path / "noisy", NOISY, *words, **level)
        assert (code, message in error) == (1, True), error
    assert not (tmp_path / "noisy").exists()


def test_a_clean_store_keeps_its_range(tmp_path):
    store(tmp_path / "clean", CLEAN, "data.range=[-1,1]")
    with pytest.raises(UserError, match=r"set data.range=null"):
        load_data(DataConfig(source="store", path=str(tmp_path / "clean"), range=(-1, 1)))
