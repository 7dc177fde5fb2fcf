"""How steps are computed changes them within the tolerances that docs/training.md states, and what fails is one line."""

import pytest
import torch
from small_runs import BASE, NETWORKS, compared, observations, run
from torch._inductor import config as inductor

from ambient_sweep.config import build_config
from ambient_sweep.errors import UserError
from ambient_sweep.training import compute


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
