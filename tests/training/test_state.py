"""States and models on disk: whole or not at all, and nothing damaged is ever taken for sound."""

import resource

import pytest
import torch
from small_runs import BASE, CONDITIONAL, UNET, assert_same_bits, loaded, new_state, observations, pictures, run

from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.training.files import DamagedFile
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import load_model, read_state, save_model


@pytest.fixture
def saved(tmp_path):
    config = build_config(BASE, {"training.images": 320})
    state, _ = run(config, observations())
    state.save(tmp_path / "s")
    return config, state, tmp_path / "s"


def test_a_state_of_another_config_is_refused_but_not_one_computed_otherwise(saved):
    _, state, folder = saved
    with pytest.raises(UserError, match="another config"):
        loaded(folder, build_config(BASE, {"training.images": 320, "seed": 1}), observations())
    elsewhere = {"compute.accumulate": 4, "compute.prefetch": 0, "resources.cpus": 2}
    other = loaded(folder, build_config(BASE, {"training.images": 320}, elsewhere), observations())
    assert_same_bits(state, other)


def test_a_state_of_before_distillation_goes_on_to_the_same_bits(tmp_path):
    """Its config lacks the section, and its record under way the generator's loss."""
    config = build_config(BASE, {"training.images": 640})
    whole, _ = run(config, observations())
    half = new_state(config, observations())
    for _ in train(config, observations(), half, interrupted=lambda: half.images >= 336):
        pass
    half.save(tmp_path)
    tensors, meta = read_state(tmp_path)
    del meta["config"]["distillation"]
    assert tensors["sums"][:3].all()
    old = new_state(config, observations())
    old.restore(tmp_path, tensors | {"sums": tensors["sums"][:-1]}, meta)
    run(config, observations(), old)
    assert_same_bits(whole, old)


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [BASE, UNET | CONDITIONAL], ids=["plain", "conditional"])
def test_a_saved_model_comes_back_with_its_config(tmp_path, base):
    config = build_config(base, {"training.images": 32})
    observed = pictures(32) if base is not BASE else observations()
    state, _ = run(config, observed)
    notes = {"data_fingerprint": "abc", "classes": state.classes}
    save_model(tmp_path / "m", state.average.state_dict(), config, state.images, state.shape, notes)
    model, again, meta = load_model(tmp_path / "m")
    assert again == config
    assert (meta["data_fingerprint"], meta["classes"]) == ("abc", state.classes)
    x, sigma = torch.randn(3, *state.shape), torch.rand(3)
    labels = torch.tensor([0, 2, 3]) if state.classes else None
    assert torch.equal(model(x, sigma, labels), state.average(x, sigma, labels))


def test_a_full_disk_names_the_folder_and_leaves_what_was_there(saved):
    """safetensors reports the error in words of its own; here the kernel refuses, not a stand-in."""
    _, state, folder = saved
    before = read_state(folder)[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            state.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(folder)
    assert read_state(folder)[1] == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_flipped_bits_and_cuts_anywhere_are_noticed(saved, name):
    file = saved[2] / name
    content, generator = file.read_bytes(), torch.Generator().manual_seed(0)
    places = [0, 7, 8, len(content) - 1, *torch.randint(len(content), (40,), generator=generator).tolist()]
    flips = [
        content[:at] + bytes([content[at] ^ 1 << at % 7]) + content[at + 1 :]
        for at in places
        if content[at : at + 1].strip()
    ]
    for harmed in [*flips, *(content[:length] for length in (0, 1, 100, len(content) // 2, len(content) - 1))]:
        file.write_bytes(harmed)
        with pytest.raises(DamagedFile, match=saved[2].name):
            read_state(saved[2])
