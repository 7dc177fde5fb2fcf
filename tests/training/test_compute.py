"""How steps are computed changes them within the tolerances that docs/training.md states, and what fails is one line."""

import functools

import pytest
import torch
from small_runs import BASE, UNET, distance, new_state, observations, pictures, run
from torch._inductor import config as inductor

from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.training import compute

STEPS = 30
LENGTH = {"training.images": 16 * STEPS}
DIT = BASE | {"model": {"kind": "dit", "width": 16, "blocks": 2, "patch": 2, "head_width": 8}}
NETWORKS = {"mlp": (BASE, observations), "unet": (UNET, lambda: pictures(32)), "dit": (DIT, lambda: pictures(32))}


@functools.cache
def plain_run(network):
    return run(build_config(NETWORKS[network][0], LENGTH), NETWORKS[network][1]())


def compared(network, knob):
    """Relative distance of the weights after STEPS steps to those of the plain path, and the largest of the losses'."""
    base, observed = NETWORKS[network][0], NETWORKS[network][1]()
    plain, records = plain_run(network)
    other, others = run(build_config(base, LENGTH, knob), observed)
    losses = max(abs(a.loss / b.loss - 1) for a, b in zip(others, records, strict=True))
    assert distance(new_state(plain.config, observed), plain) > 0.03  # it has learnt something by then
    return distance(other, plain), losses


@pytest.mark.parametrize("network", NETWORKS)
def test_recomputed_activations_and_prefetching_change_no_bit(network):
    knob = {"compute.activation_checkpointing": True, "compute.prefetch": 5}
    assert compared(network, knob) == (0, 0)


@pytest.mark.parametrize("network", NETWORKS)
def test_accumulation_within_1e_5(network):
    weights, losses = compared(network, {"compute.accumulate": 4})
    assert weights < 1e-5
    assert losses < 1e-6


def test_channels_last_within_1e_5():
    weights, losses = compared("unet", {"compute.channels_last": True})
    assert 0 < weights < 1e-5
    assert losses < 1e-6


@pytest.mark.parametrize("network", NETWORKS)
def test_bf16_within_half_a_percent(network):
    weights, losses = compared(network, {"compute.precision": "bf16"})
    assert 1e-5 < weights < 5e-3
    assert losses < 1e-3


@pytest.mark.parametrize("changes", [{}, {"compute.activation_checkpointing": True}], ids=["plain", "checkpointing"])
def test_compiling_within_1e_5(monkeypatch, changes):
    """With torch.compile's tracing and its graphs of both passes, but not its code generator, which takes a minute."""
    monkeypatch.setattr(compute, "BACKEND", "aot_eager")
    weights, losses = compared("mlp", {"compute.compile": True, **changes})
    assert weights < 1e-5
    assert losses < 1e-6


def test_compiling_without_a_compiler_is_refused_in_one_line():
    config = build_config(BASE, {"compute.compile": True})
    words = r"^compute.compile: torch.compile failed \(.*compiler.*\); use compute.compile=false$"
    none = inductor.patch({"cpp.cxx": (None, "/no/such/compiler"), "fx_graph_cache": False})
    with none, pytest.raises(UserError, match=words) as caught:
        run(config, observations())
    assert "\n" not in str(caught.value)
    torch._dynamo.reset()
