"""LoRA on a frozen base: what is trained, shared, kept and resumed."""

import json
import shutil
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
import tiny_bases
import torch
import torch.multiprocessing as mp
from gloo import gloo_group
from safetensors.torch import load_file, save_file
from small_latents import CAPTIONS, SHAPES, embeddings, latents, lora_config, new_state
from tiny_bases import ONE_PROCESS

from ambient_sweep.config.cost import step_cost
from ambient_sweep.errors import UserError
from ambient_sweep.latent.base import open_base
from ambient_sweep.models import build_model, checkpoint_activations, count_parameters, parameters
from ambient_sweep.training.files import read_tensors
from ambient_sweep.training.group import SINGLE
from ambient_sweep.training.loop import train
from ambient_sweep.training.state import TrainState, load_model, read_state, save_model

pytestmark = ONE_PROCESS

LORA = {"sdxl": 30_720, "sd3": 2_048}


@pytest.fixture(params=["sdxl", "sd3"])
def family(request):
    return request.param


@pytest.fixture
def base(family, request):
    return request.getfixturevalue(family)


@pytest.fixture
def config(family, base, tmp_path):
    return lora_config(base, embeddings(tmp_path / "data", family))


def frozen(denoiser):
    """The base's weights in a denoiser, by name."""
    (model,) = denoiser.network._unregistered
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if "lora_" not in name}


def made(config, family, awake=True):
    """A denoiser, and what it answers to made-up latents; `awake`: with noise on B, which is 0 at first."""
    denoiser = build_model(config.model, SHAPES[family], config.seed, CAPTIONS, config.data.path)
    if awake:
        generator = torch.Generator().manual_seed(0)
        for name, p in denoiser.named_parameters():
            p.data += 0.1 * torch.randn(p.shape, generator=generator) * ("lora_B" in name)
    return denoiser


def answer(denoiser, family, labels=(0, 2)):
    x = torch.randn(2, *SHAPES[family], generator=torch.Generator().manual_seed(3))
    return denoiser(x, torch.tensor([0.9, 4.0]), None if labels is None else torch.tensor(labels))


def test_training_changes_the_adapters_alone_and_resumes_to_the_bit(config, family, base, tmp_path):
    key, observed = open_base(base).key, latents(family)
    whole = new_state(config, observed)
    before = {name: p.detach().clone() for name, p in whole.denoiser.named_parameters()}
    records = list(train(config, observed, whole))
    assert records[-1].consistency != 0
    after = dict(whole.denoiser.named_parameters())
    assert all(not torch.equal(before[name], p) for name, p in after.items())
    weights = frozen(whole.denoiser)
    assert weights
    assert all(p.grad is None and not p.requires_grad for p in weights.values())
    assert open_base(base).key == key

    half = new_state(config, observed)
    with closing(train(config, observed, half, interrupted=lambda: half.images >= 6)) as part:
        list(part)
    half.save(tmp_path / "state")
    assert sum(file.stat().st_size for file in (tmp_path / "state").iterdir()) < 1e6
    resumed = new_state(config, observed)
    resumed.restore(tmp_path / "state", *read_state(tmp_path / "state"))
    list(train(config, observed, resumed))
    assert resumed.tensors().keys() == whole.tensors().keys()
    assert all(torch.equal(tensor, resumed.tensors()[name]) for name, tensor in whole.tensors().items())


def trained_by(rank, workers, folder, base):
    """What one of `workers` processes has trained, each on its part of every batch."""
    with gloo_group(folder, rank, workers) if workers > 1 else nullcontext(SINGLE) as group:
        changes = {"resources.workers": workers, "compute.accumulate": workers, "training.batch_size": 4}
        config = lora_config(base, folder, changes, {"training.images": 24})
        state = TrainState.create(config, SHAPES["sdxl"], classes=CAPTIONS, group=group)
        list(train(config, latents("sdxl"), state))
        save_file(state.average.state_dict(), folder / f"average-{workers}-{rank}")
    return state.tensors()


def test_two_workers_train_what_one_trains(sdxl, tmp_path):
    """Over gloo, the adapters alone; within 1e-5 in float32."""
    alone = trained_by(0, 1, embeddings(tmp_path, "sdxl"), sdxl)
    other = mp.get_context("spawn").Process(target=trained_by, args=(1, 2, tmp_path, sdxl))
    other.start()
    together = trained_by(0, 2, tmp_path, sdxl)
    other.join()
    assert other.exitcode == 0
    assert together.keys() == alone.keys()
    assert sum(value.numel() for name, value in together.items() if name.startswith("model.")) == LORA["sdxl"]
    averages = [load_file(tmp_path / f"average-{name}") for name in ("1-0", "2-0", "2-1")]
    start = new_state(lora_config(sdxl, tmp_path), latents("sdxl")).tensors()
    for prefix in ("model.", "average.", "optimizer.exp_avg."):
        assert apart(together, alone, prefix) < 1e-5
    assert apart(start, alone, "model.") > 0.05
    assert all(apart(each, averages[0]) < 1e-5 for each in averages[1:])


def apart(tensors, others, prefix=""):
    """|| a - b || / || b || over all tensors whose names begin with `prefix`."""
    names = sorted(name for name in others if name.startswith(prefix))
    a, b = (torch.cat([each[name].flatten() for name in names]) for each in (tensors, others))
    return float((a - b).norm() / b.norm())


def test_a_model_has_the_weights_of_its_adapters_and_shares_those_of_the_base(config, family, base):
    first, second = made(config, family), made(config, family)
    assert count_parameters(first) == parameters(config.model, SHAPES[family], CAPTIONS) == LORA[family]
    answer(first, family), answer(second, family)
    mine, theirs = frozen(first), frozen(second)
    assert sum(p.numel() for p in mine.values()) > 10 * LORA[family]
    assert all(p.data_ptr() == theirs[name].data_ptr() for name, p in mine.items())
    names = [name for name, _ in first.named_parameters()]
    assert all("lora_A" in name or "lora_B" in name for name in names)


def test_a_new_model_is_the_base_itself_and_its_seed_alone_decides_the_adapters(config, family, base):
    """Against diffusers' own network; the answer depends on the caption, and no label is the last row."""
    table = load_file(f"{config.data.path}/embeddings.safetensors")
    pipeline = tiny_bases.pipeline(base)
    x = torch.randn(2, *SHAPES[family], generator=torch.Generator().manual_seed(3))
    t, rows = torch.tensor([500.0, 20.25]), torch.tensor([0, 3])
    want = tiny_bases.predicted(pipeline, x, t, table, rows)
    with torch.no_grad():
        plain, awake = made(config, family, awake=False), made(config, family)
        assert torch.equal(plain.network(x, t, rows), want)
        assert torch.equal(plain.network(x, t)[1:], want[1:])
        assert not torch.allclose(plain.network(x, t)[:1], want[:1])
        assert not torch.allclose(awake.network(x, t, rows), want)
    again, other = (made(config.model_copy(update={"seed": seed}), family, False) for seed in (0, 1))
    for (name, p), (_, same), (_, q) in zip(*(d.named_parameters() for d in (plain, again, other)), strict=True):
        assert torch.equal(p, same)
        assert torch.equal(p, q) == ("lora_B" in name)
        if "lora_A" in name:
            assert p.std().item() == pytest.approx(1 / 4, rel=0.3)


@pytest.mark.parametrize("bf16", [False, True])
def test_checkpointing_keeps_the_gradients_and_bf16_is_close(config, family, bf16):
    plain, lean, exact = (made(config, family) for _ in range(3))
    checkpoint_activations(lean.network)
    assert lean.network.blocks_to_wrap()
    losses = []
    for denoiser in (plain, lean):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses.append((answer(denoiser, family) ** 2).mean())
        losses[-1].backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), lean.parameters(), strict=True))
    assert all(p.grad.abs().sum() > 0 for p in plain.parameters())
    want = (answer(exact, family) ** 2).mean()
    assert losses[0].item() == pytest.approx(want.item(), rel=0.05 if bf16 else 1e-6)
    dtypes = {p.dtype for p in frozen(plain).values()}
    assert dtypes == ({torch.bfloat16} if bf16 else {torch.float32})


def test_a_checkpoint_holds_the_adapters_and_is_the_model(config, family, tmp_path):
    state = new_state(config, latents(family))
    list(train(config, latents(family), state))
    extra = {"data_fingerprint": "f", "classes": CAPTIONS}
    save_model(tmp_path / "c", state.averages.main(), config, 8, SHAPES[family], extra)
    tensors, _ = read_tensors(tmp_path / "c", "model", "cpu", meta_name="checkpoint")
    assert sum(value.numel() for value in tensors.values()) == LORA[family]
    model, _, _ = load_model(tmp_path / "c")
    assert torch.equal(answer(model, family), answer(state.average, family))
    assert not torch.equal(answer(model, family), answer(made(config, family, awake=False), family))


def test_a_step_with_consistency_costs_what_a_frozen_base_makes_it_cost():
    assert step_cost(lora_config("b", "d", {"consistency.batch_share": 0.15})) == pytest.approx(1.525)


def test_bad_targets_and_embeddings_that_are_missing_are_told_in_a_line(config, family, tmp_path):
    bad = config.model.model_copy(update={"targets": ("to_q", "to_nothing")})
    with pytest.raises(UserError, match=r"^model\.targets: 'to_nothing' "):
        build_model(bad, SHAPES[family], 0)
    with pytest.raises(UserError, match=r"^model\.targets: '' is no linear layer"):
        build_model(config.model.model_copy(update={"targets": ("",)}), SHAPES[family], 0)
    with pytest.raises(
        UserError, match=r"^model\.rank: 33 is above the smaller side of a layer to_[qk] .*; use 32 at most$"
    ):
        build_model(config.model.model_copy(update={"rank": 33}), SHAPES[family], 0)
    build_model(config.model.model_copy(update={"rank": 32}), SHAPES[family], 0)
    denoiser = build_model(config.model, SHAPES[family], 0, CAPTIONS, str(tmp_path))
    with pytest.raises(UserError, match=r"embeddings\.safetensors: cannot be read"):
        answer(denoiser, family)


def test_weights_that_are_no_weights_of_the_network_are_told_in_a_line(config, base, family, tmp_path):
    def told(change, words, **settings):
        broken = tmp_path / words.split()[-1]
        network = open_base(shutil.copytree(base, broken)).network
        if change:
            file = network / "diffusion_pytorch_model.safetensors"
            save_file(change(load_file(file)), file)
        file = network / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
        with pytest.raises(UserError) as caught:
            answer(made(lora_config(broken, Path(config.data.path)), family), family)
        line = str(caught.value)
        assert line.startswith(f"{network}: ")
        assert line.endswith("; download or save the base again")
        assert words in line
        assert "\n" not in line

    name = {"sdxl": "conv_in.bias", "sd3": "proj_out.bias"}[family]
    told(lambda found: found | {name: found[name][1:].clone()}, f"its weights do not fit its config.json ({name}")
    told(lambda found: found | {name: found[name] * torch.nan}, "its weights are not finite")
    if family == "sdxl":
        told(None, "cannot be loaded (ValueError: X", down_block_types=["X", "CrossAttnDownBlock2D"])
