"""Samples of `generate`: the same bits whoever makes them and how many at once; and the quick mode, but for rounding.

Two processes over gloo make all scenarios together, each on one thread; this process makes the same alone.
"""

import pytest
import torch
import torch.multiprocessing as mp
from gloo import gloo_group
from safetensors.torch import load_file, save_file

from ambient_sweep.config import build_config
from ambient_sweep.models import build_model
from ambient_sweep.training import compute
from ambient_sweep.training.group import SINGLE
from ambient_sweep.trial.samples import generate, sampled_labels

WORKERS, COUNT, SEED, COUNTS = 2, 70, 3, (5, 0, 3)
BASE = {
    "data.train_size": 150,
    "observed.sigma": 0.3,
    "sampling.steps": 3,
    "training": {"images": 3200, "batch_size": 32, "records": 10},
}
UNET = {"kind": "unet", "width": 16, "levels": 2, "blocks": 1, "attention": [8]}
GUIDED = {"conditional": True, "label_dropout": 0.2}
NETWORKS = {
    "mlp": ((1, 8, 8), {"model": {"kind": "mlp", "width": 32, "blocks": 1}}),
    "unet": ((1, 8, 8), {"model": UNET}),
    "unet, classes, guidance": ((1, 8, 8), {"model": UNET | GUIDED, "sampling.guidance": 1.5}),
    "dit": ((3, 8, 8), {"model": {"kind": "dit", "width": 32, "blocks": 2, "head_width": 16, "patch": 2}}),
}
FAST = {"sampling.mode": "fast"}


def made(name, count=COUNT, group=SINGLE, *, denoiser=None, **changes):
    """Samples of a network with weights that are all drawn: as built, the last layers are zero."""
    shape, settings = NETWORKS[name]
    config = build_config(BASE, settings, changes)
    counts = COUNTS if config.model.conditional else ()
    if denoiser is None:
        denoiser = build_model(config.model, shape, 0, len(counts)).requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        for weight in denoiser.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return generate(config, denoiser, shape, count, SEED, group, endpoints=config.endpoints(0), counts=counts)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[endpoint], expected[endpoint]) for endpoint in expected)


def assert_near(found, expected):
    for endpoint, images in expected.items():
        torch.testing.assert_close(found[endpoint], images, atol=1e-4, rtol=1e-4)


def worker(rank, folder):
    torch.set_num_threads(1)
    with gloo_group(folder, rank) as group:
        for name in NETWORKS:
            save_file(made(name, group=group), folder / f"{name} {rank}")
        save_file(made("mlp", 5, group), folder / f"few {rank}")
        save_file(made("mlp", group=group, **FAST), folder / f"fast {rank}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    mp.spawn(worker, (folder,), nprocs=WORKERS)
    return folder


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return {name: made(name) for name in NETWORKS}


# -- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_bits_do_not_depend_on_how_many_are_made_nor_on_the_batch_size(alone, name):
    assert alone[name]["zero"].isfinite().all()
    assert len(alone[name]["zero"].unique(dim=0)) == COUNT
    assert not torch.equal(alone[name]["zero"], alone[name]["observed"])
    for count, batch in ((COUNT, 7), (33, 500), (32, 1), (1, 64)):
        found = made(name, count, **{"evaluation.batch_size": batch})
        assert_equal(found, {endpoint: images[:count] for endpoint, images in alone[name].items()})


@pytest.mark.parametrize("name", NETWORKS)
def test_two_workers_make_the_same_bits_as_one(folder, alone, name):
    for rank in range(WORKERS):
        assert_equal(load_file(folder / f"{name} {rank}"), alone[name])


def test_a_worker_may_have_nothing_to_make(folder, alone):
    for rank in range(WORKERS):
        assert_equal(load_file(folder / f"few {rank}"), {e: images[:5] for e, images in alone["mlp"].items()})


def test_two_workers_make_fast_samples_together(folder, alone):
    for rank in range(WORKERS):
        assert_near(load_file(folder / f"fast {rank}"), alone["mlp"])


def uneven(x, sigma):
    """A denoiser that shows what sums in a network may do: its result depends on the size of the batch and the place."""
    return 0.5 * x + 1e-3 * len(x) + 1e-2 * torch.arange(len(x))[:, None, None, None]


def test_exact_samples_are_safe_from_a_network_that_depends_on_its_batch_and_fast_ones_are_not():
    whole = made("mlp", denoiser=uneven)
    few = made("mlp", 33, denoiser=uneven)
    assert_equal(few, {endpoint: images[:33] for endpoint, images in whole.items()})
    fast = {**FAST, "sampling.batch_size": 20}
    assert not torch.allclose(made("mlp", denoiser=uneven, **fast)["zero"], whole["zero"], atol=1e-4)


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_nothing_is_computed_below_the_observed_level_where_it_is_not_asked_for(alone):
    seen = []

    def watched(x, sigma):
        seen.append(float(sigma.min()))
        return 0.5 * x

    made("mlp", denoiser=watched, **{"evaluation.endpoints": ["observed"]})
    assert min(seen) == pytest.approx(0.3)
    assert_equal(made("mlp", **{"evaluation.endpoints": ["observed"]}), {"observed": alone["mlp"]["observed"]})


# -- the quick mode ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet", "unet, classes, guidance"])
@pytest.mark.parametrize("changes", [{"sampling.batch_size": 7}, {"sampling.compile": True}], ids=str)
def test_fast_samples_are_the_exact_ones_but_for_rounding(alone, name, changes, monkeypatch):
    monkeypatch.setattr(compute, "BACKEND", "eager")  # traces without a compiler of C++
    assert_near(made(name, **FAST, **changes), alone[name])


def test_bf16_samples_are_near_the_exact_ones_and_keyed_as_they_are(alone):
    found, expected = made("unet", **FAST, **{"sampling.precision": "bf16"})["zero"], alone["unet"]["zero"]
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    distances = torch.cdist(found.flatten(1), expected.flatten(1))
    assert torch.equal(distances.argmin(1), torch.arange(COUNT))
    assert distances.diagonal().max() < 0.2 * expected.flatten(1).norm(dim=1).mean()


def test_labels_of_samples_follow_the_counts_and_depend_on_the_seed_and_index_alone():
    counts = (600, 0, 300, 100)
    labels = sampled_labels(counts, 3, 0, 20_000)
    share = torch.bincount(labels, minlength=4) / 20_000
    assert share[1] == 0
    for found, expected in zip(share.tolist(), (0.6, 0, 0.3, 0.1), strict=True):
        assert found == pytest.approx(expected, abs=4 * (0.6 * 0.4 / 20_000) ** 0.5)
    assert torch.equal(sampled_labels(counts, 3, 700, 50), labels[700:750])
    assert not torch.equal(sampled_labels(counts, 4, 0, 50), labels[:50])
