"""Bases as diffusers saves them: what is read, against diffusers, and what is refused, each in one line."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_bases
import torch
from safetensors.torch import load_file, save_file
from tiny_bases import ONE_PROCESS

from ambient_sweep.errors import UserError
from ambient_sweep.latent import EXTRA, require_extra
from ambient_sweep.latent.base import open_base, variant, weight_files

pytestmark = ONE_PROCESS
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(sdxl, tmp_path):
    return shutil.copytree(sdxl, tmp_path / "base")


def edit(file: Path, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refusal(folder):
    with pytest.raises(UserError) as caught:
        open_base(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_noise_levels_are_those_of_diffusers(sdxl, sd3):
    from diffusers import DDPMScheduler

    base, other = open_base(sdxl), open_base(sd3)
    alpha_bar = DDPMScheduler.from_pretrained(sdxl / "scheduler").alphas_cumprod.double()
    np.testing.assert_allclose(base.sigmas, (1 / alpha_bar - 1).sqrt(), rtol=1e-4)
    assert [round(base.sigmas[t], 3) for t in (100, 250, 500, 800)] == [0.344, 0.696, 1.618, 5.111]
    t = tiny_bases.pipeline(sd3).scheduler.sigmas.double().flip(0)[:-1]  # whose last is 1
    np.testing.assert_allclose(other.sigmas, t / (1 - t), rtol=1e-3)
    for each in (base, other):
        levels = np.array(each.sigmas)
        assert np.isfinite(levels).all()
        assert (np.diff(levels) > 0).all()
    assert [round(base.timestep(base.sigmas[t]), 6) for t in (0, 500, 999)] == [0, 500, 999]
    assert other.timestep(1.0) == 500


def test_what_is_known_of_a_base(sdxl, sd3, copy):
    base, other = open_base(sdxl), open_base(sd3)
    found = [(b.family, b.scaling, b.channels, b.factor, b.divisor, b.scale, b.shift) for b in (base, other)]
    assert found == [("sdxl", "noise", 4, 2, 2, 0.13025, 0.0), ("sd3", "flow", 16, 2, 2, 1.5305, 0.0609)]
    again = open_base(copy)
    assert (again.key, again.vae_key) == (base.key, base.vae_key) != (other.key, other.vae_key)
    file = copy / "vae" / WEIGHTS
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    assert open_base(copy).key == base.key
    assert open_base(copy).vae_key != base.vae_key
    edit(copy / "unet" / "config.json", _diffusers_version="9", _name_or_path="x")
    assert open_base(copy).key == base.key
    edit(copy / "unet" / "config.json", norm_eps=1e-3)
    assert open_base(copy).key != base.key
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert open_base(copy).scaling == "v"


def test_the_weights_in_full_precision_are_read_where_there_are_both(copy):
    folder = copy / "unet"
    half = shutil.copy(folder / WEIGHTS, folder / WEIGHTS.replace(".safe", ".fp16.safe"))
    assert weight_files(folder) == [folder / WEIGHTS]
    assert variant(folder) is None
    (folder / WEIGHTS).unlink()
    assert weight_files(folder) == [half]
    assert variant(folder) == "fp16"


SCHEDULER, UNET, VAE = "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json"


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "is a FluxPipeline; a base is a StableDiffusionXLPipeline or"),
        (UNET, {"time_cond_proj_dim": 256}, "distilled for few steps or has guidance within (time_cond_proj_dim)"),
        (UNET, {"guidance_embeds": True}, "(guidance_embeds), so it does not estimate E[x_0 | x_t]"),
        (UNET, {"_name_or_path": "stabilityai/sdxl-turbo"}, "(its name says turbo)"),
        (UNET, {"_name_or_path": "ByteDance/Hyper-SDXL"}, "(its name says Hyper-SDXL)"),
        ("model_index.json", {"_name_or_path": "org/sdxl-lightning-4step"}, "(its name says lightning)"),
        (SCHEDULER, {"_class_name": "LCMScheduler"}, "(LCMScheduler)"),
        (SCHEDULER, {"prediction_type": "sample"}, "prediction_type=sample is not supported; bases predict epsilon or"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "its last noise level is infinite (zero terminal SNR)"),
        (SCHEDULER, {"trained_betas": [0.1, 0.5, 1.0]}, "its last noise level is infinite"),
        (SCHEDULER, {"beta_end": 5}, "its betas (0.00085 to 5) do not lie in (0, 1); correct its config"),
        (SCHEDULER, {"trained_betas": [0.1, float("nan")]}, "do not lie in (0, 1)"),
        (SCHEDULER, {"num_train_timesteps": 0}, "its configs lack a value or hold a wrong one"),
        (SCHEDULER, {"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule=squaredcos_cap_v2 is not supported"),
        (SCHEDULER, {"beta_start": "x"}, "its configs lack a value or hold a wrong one"),
        (UNET, {"in_channels": 9}, "its latents are not those that unet takes"),
        ("vae/config.json", {"latents_mean": [1, 2, 3, 4]}, "its latents are not those that unet takes"),
    ],
)  # fmt: skip
def test_bases_that_cannot_be_trained_on_are_refused(copy, file, values, words):
    edit(copy / file, **values)
    assert words in refusal(copy)


def test_signs_of_distillation_are_words_of_the_name_not_settings_of_inference(sdxl, tmp_path):
    place = Path(shutil.copytree(sdxl, tmp_path / "hyperrealism-xl_turbocharged"))
    edit(place / SCHEDULER, timestep_spacing="trailing")
    assert open_base(place).key == open_base(sdxl).key


def test_a_flow_without_noise_levels_is_refused(sd3, tmp_path):
    place = Path(shutil.copytree(sd3, tmp_path / "base"))
    edit(place / SCHEDULER, shift=-1.0)
    assert "(shift=-1.0, which is not a number from 0.001 to 1000); save it again" in refusal(place)


@pytest.mark.parametrize(
    ("family", "file", "values"),
    [
        *(("sdxl", VAE, {"scaling_factor": value}) for value in (None, "x", 0, -1, float("nan"), True)),
        *(("sdxl", VAE, {"shift_factor": value}) for value in ("x", float("inf"))),
        *(("sd3", "transformer/config.json", {"patch_size": value}) for value in (0, None, 1.5)),
        *(("sdxl", SCHEDULER, {"num_train_timesteps": value}) for value in (1, 1000.5, 10**12)),
        ("sdxl", UNET, {"block_out_channels": []}),
        ("sdxl", VAE, {"latent_channels": "4"}),
    ],
)
def test_a_wrong_number_is_named(family, file, values, request, tmp_path):
    place = Path(shutil.copytree(request.getfixturevalue(family), tmp_path / "base"))
    edit(place / file, **values)
    assert f"{place}: its configs lack a value or hold a wrong one ({next(iter(values))}=" in refusal(place)


@pytest.mark.parametrize("betas", [[0.1], [0.5, 1e-20, 1e-20]])
def test_levels_that_are_no_rising_table_are_refused(copy, betas):
    edit(copy / SCHEDULER, trained_betas=betas)
    assert f"{copy / 'scheduler'}: its noise levels are not a rising table; download the base again" == refusal(copy)


def test_what_is_no_folder_of_a_base_is_refused(copy, tmp_path, sdxl):
    hub = "give the folder of a whole pipeline; of a model on the hub, the one that `hf download ID --local-dir` fills"
    assert refusal(Path("stabilityai/stable-diffusion-xl-base-1.0")).endswith(f"-1.0: not a folder; {hub}")
    assert refusal(tmp_path) == f"{tmp_path}: holds no model_index.json; {hub}"
    single = shutil.copy(sdxl / "unet" / WEIGHTS, tmp_path / "model.safetensors")
    assert "is a single file, not a diffusers folder; load it by diffusers' from_single_file" in refusal(single)
    turbo = shutil.copytree(sdxl, tmp_path / "SDXL-Lightning")
    assert "(its name says Lightning)" in refusal(turbo)
    (tmp_path / "link").symlink_to(turbo)
    assert "(its name says Lightning)" in refusal(tmp_path / "link")
    cached = shutil.copytree(sdxl, tmp_path / "models--stabilityai--sdxl-turbo" / "snapshots" / "71153311d3")
    (tmp_path / "base-of-mine").symlink_to(cached)
    for place in (cached, tmp_path / "base-of-mine"):
        assert "(its name says turbo)" in refusal(place)
    (copy / SCHEDULER).write_text("{")
    assert f"{copy / SCHEDULER}: cannot be read" in refusal(copy)


def test_weights_that_are_pickled_damaged_missing_or_adapted_are_refused(copy):
    file = copy / "unet" / WEIGHTS
    weights = load_file(file)
    save_file(weights | {"mid_block.x.lora_A.weight": torch.zeros(1)}, file)
    assert "was saved with adapters inside; call unload_lora_weights()" in refusal(copy)
    save_file({name.replace("to_q.", "to_q.base_layer."): value for name, value in weights.items()}, file)
    assert "was saved with adapters inside" in refusal(copy)
    file.write_bytes(file.read_bytes()[:-10])
    assert f"{file}: damaged (the file is cut off)" in refusal(copy)
    file.write_bytes(b"short")
    assert f"{file}: damaged" in refusal(copy)
    file.unlink()
    assert f"holds no {WEIGHTS}" in refusal(copy)
    (file.parent / "diffusion_pytorch_model.bin").write_bytes(b"")
    assert "pickled weights are not read" in refusal(copy)


def test_the_extra_that_is_missing_is_named(monkeypatch):
    require_extra()
    monkeypatch.setattr("ambient_sweep.latent.find_spec", lambda name: None if name != EXTRA[0] else name)
    with pytest.raises(UserError, match=r"transformers, peft, accelerate: pip install 'ambient-sweep\[latent\]'$"):
        require_extra()


def test_the_documented_download_is_a_call_of_hf_that_fetches_all_of_a_base(sdxl):
    """Every pattern has an `--include` of its own: hf takes what follows one for a file, and then nothing else."""
    from huggingface_hub.utils import filter_repo_objects

    root = Path(__file__).parents[2]
    for file in ("docs/latent.md", "search_spaces/sdxl_lora.yaml"):
        text = (root / file).read_text().replace("\\\n#", "").replace("\\\n", "")
        words = shlex.split(next(line for line in text.splitlines() if " hf download " in f" {line}"), comments=False)
        first = words.index("--local-dir") + 2
        assert words[first::2] == ["--include"] * len(words[first::2])
        files = [path.relative_to(sdxl).as_posix() for path in sdxl.rglob("*") if path.is_file()]
        assert sorted(filter_repo_objects(files, allow_patterns=words[first + 1 :: 2])) == sorted(files)
