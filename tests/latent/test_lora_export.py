"""What `export` writes of LoRA, in plain diffusers: the same samples, and our sampler against diffusers' own scheduler."""

from itertools import pairwise

import pytest
import tiny_bases
import torch
from command_line import good
from safetensors.torch import load_file
from small_latents import CAPTIONS, SHAPES, embeddings, latents, lora_config, new_state
from tiny_bases import ONE_PROCESS

from ambient_sweep.diffusion.denoiser import guided
from ambient_sweep.diffusion.sampling import heun
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import load_model, save_model

pytestmark = ONE_PROCESS


@pytest.fixture(scope="module", params=["sdxl", "sd3"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def exported(family, request, tmp_path_factory):
    """The folder of a short training's model, as `export` writes it; its base and its text embeddings."""
    place = tmp_path_factory.mktemp("exported")
    base, data = request.getfixturevalue(family), embeddings(place / "data", family)
    config = lora_config(base, data, {"optimizer.lr": 0.1})
    state = new_state(config, latents(family))
    list(train(config, latents(family), state))
    extra = {"data_fingerprint": "0123456789abcdef", "classes": CAPTIONS}
    save_model(place / "c", state.averages.main(), config, 8, SHAPES[family], extra)
    good("export", place / "c", "--to", place / "out")
    return place / "out", base, load_file(data / "embeddings.safetensors")


@pytest.mark.parametrize("family", ["sd3"], indirect=True, scope="module")
def test_samples_of_the_flow_pipeline_with_the_exported_weights_are_our_samples(exported):
    """By diffusers' own pipeline and Euler scheduler: a step in t of a flow is one in sigma = t / (1 - t) of x / (1 - t)."""
    folder, base, table = exported
    pipeline, (denoiser, _, _) = tiny_bases.pipeline(base), load_model(folder)
    given = [0.9, 0.6, 0.3, 0.1]
    pipeline.scheduler.set_timesteps(sigmas=given)  # which shifts them
    t = pipeline.scheduler.sigmas.double()
    x = torch.randn(2, *SHAPES["sd3"], generator=torch.Generator().manual_seed(0))
    labels, none = torch.tensor([0, 2]), torch.tensor([CAPTIONS, CAPTIONS])

    def theirs():
        return pipeline(
            prompt_embeds=table["prompt"][labels], pooled_prompt_embeds=table["pooled"][labels],
            negative_prompt_embeds=table["prompt"][none], negative_pooled_prompt_embeds=table["pooled"][none],
            guidance_scale=5.0, sigmas=given, output_type="latent", latents=x,
        ).images  # fmt: skip

    ours, denoise, levels = x / (1 - t[0].float()), guided(denoiser, labels, 5.0, none=CAPTIONS), (t / (1 - t)).tolist()
    with torch.no_grad():
        for sigma, lower in pairwise(levels):
            ours = ours + (lower - sigma) / sigma * (ours - denoise(ours, ours.new_full((2,), sigma)))
    untouched = theirs()
    pipeline.load_lora_weights(folder)
    torch.testing.assert_close(ours, theirs(), rtol=1e-4, atol=1e-4)
    assert (untouched - ours).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", ["sdxl"], indirect=True, scope="module")
def test_samples_of_diffusers_with_the_exported_weights_are_our_samples(exported):
    """By diffusers' own pipeline and Heun scheduler, with guidance; its levels are not those of whole timesteps."""
    from diffusers import HeunDiscreteScheduler

    folder, base, table = exported
    pipeline, (denoiser, _, _) = tiny_bases.pipeline(base), load_model(folder)
    pipeline.scheduler = HeunDiscreteScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.scheduler.set_timesteps(7)
    levels = pipeline.scheduler.sigmas.unique().double().flip(0)
    x = torch.randn(2, *SHAPES["sdxl"], generator=torch.Generator().manual_seed(0)) * levels[0].float()
    labels, none = torch.tensor([0, 2]), torch.tensor([CAPTIONS, CAPTIONS])

    def theirs():
        return pipeline(
            prompt_embeds=table["prompt"][labels], pooled_prompt_embeds=table["pooled"][labels],
            negative_prompt_embeds=table["prompt"][none], negative_pooled_prompt_embeds=table["pooled"][none],
            guidance_scale=5.0, num_inference_steps=7, output_type="latent",
            latents=x / pipeline.scheduler.init_noise_sigma,
        ).images  # fmt: skip

    ours, untouched = heun(guided(denoiser, labels, 5.0, none=CAPTIONS), x, levels), theirs()
    pipeline.load_lora_weights(folder)
    torch.testing.assert_close(ours, theirs(), rtol=1e-4, atol=1e-4)
    assert (untouched - ours).abs().max() > 0.1


def test_the_network_of_diffusers_with_the_exported_weights_is_ours_to_the_bit(exported, family):
    folder, base, table = exported
    pipeline, (denoiser, _, _) = tiny_bases.pipeline(base), load_model(folder)
    x = torch.randn(2, *SHAPES[family], generator=torch.Generator().manual_seed(0))
    t, rows = torch.tensor([100.0, 900.0]), torch.tensor([0, 3])
    want = denoiser.network(x, t, rows)
    assert not torch.allclose(tiny_bases.predicted(pipeline, x, t, table, rows), want)
    pipeline.load_lora_weights(folder)
    assert torch.equal(tiny_bases.predicted(pipeline, x, t, table, rows), want)


def test_the_card_says_what_was_trained_on_and_how_to_load_it(exported, family):
    folder, base, _ = exported
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "checkpoint.json", "config.yaml", "model.safetensors", "pytorch_lora_weights.safetensors",
    ]  # fmt: skip
    text = (folder / "README.md").read_text()
    name = {"sdxl": "Stable Diffusion XL", "sd3": "Stable Diffusion 3"}[family]
    t_n = {"sdxl": 252, "sd3": 412}[family]
    assert (
        f"LoRA of rank 4 ({30_720 if family == 'sdxl' else 2_048:,} parameters) for {name}, here `{base.name}`" in text
    )
    assert f"(sigma_n, latents): 0.7, timestep {t_n} of the base\n" in text
    assert "`0123456789abcdef`" in text
    assert 'pipeline.load_lora_weights("FOLDER")' in text
