"""Planner against what training does: equal keys are equal states, and a knob counts from where it acts."""

import itertools

import numpy as np
import pytest
import torch
from small_runs import new_state, pictures

from ambient_sweep.config import build_config, dump, knobs
from ambient_sweep.stages.keys import fork_points, prefix_of
from ambient_sweep.training.loader import weight_at
from ambient_sweep.training.loop import train
from ambient_sweep.training.schedules import learning_rate

BASE = {
    "model": {"kind": "mlp", "width": 16, "blocks": 1},
    "training": {"images": 320, "batch_size": 16, "records": 5},
    "evaluation.lengths": [1.0],
    "observed.sigma": 0.3,
}


def small(*changes):
    return build_config(BASE, *changes)


def prefix_key(config, images, data):
    return prefix_of(config).key(images, data)


def shared_until(a, b):
    return prefix_of(a).shared_until(prefix_of(b))


def independent_until(config):
    return [(late.images, late.what) for late in prefix_of(config).late]


# -- against the functions that training calls ------------------------------------------------------------------------


def trajectory(config, images):
    """All that the late knobs give to the steps up to `images`, by the functions that training itself calls."""
    batch, steps, c = config.training.batch_size, config.steps, config.consistency
    every = max(1, steps // config.training.records)
    rows = []
    for step in range(images // batch):
        weight, record = weight_at(config, step), (step + 1) % every == 0 or step + 1 == steps
        row = [every, record, weight, learning_rate(config.optimizer, (step + 1) / steps)]
        if weight > 0:
            row += [c.draws]
        if config.is_distilled((step + 1) * batch):
            row += [config.distillation.alpha]
        rows.append(row)
    return rows


def drawn(rng):
    """A config in which every late knob is drawn from few values, so that two often agree for a while."""
    return build_config(
        BASE,
        {
            "objective.kind": str(rng.choice(["ambient", "ambient_consistency", "ambient_distilled"])),
            "consistency.start": float(rng.choice([0.0, 0.3, 0.33, 0.5, 0.95, 1.0])),
            "consistency.weight": float(rng.choice([0.0, 1.0, 2.0])),
            "consistency.ramp": str(rng.choice(["step", "linear", "cosine"])),
            "consistency.ramp_fraction": float(rng.choice([0.0, 0.1, 0.3])),
            "consistency.draws": int(rng.choice([2, 3])),
            "distillation.start": float(rng.choice([0.1, 0.3, 0.33, 0.5])),
            "distillation.alpha": float(rng.choice([1.0, 1.2])),
            "optimizer.schedule": str(rng.choice(["cosine", "constant", "wsd"])),
            "optimizer.warmup": float(rng.choice([0.0, 0.05, 0.1, 0.25])),
            "optimizer.decay": float(rng.choice([0.0, 0.2, 0.5, 1.0])),
            "training.images": int(rng.choice([320, 313, 48, 640, 160])),
            "training.records": int(rng.choice([3, 5, 6, 10])),
            "training.stop": float(rng.choice([0.5, 1.0])),
        },
    )


def test_two_runs_are_the_same_exactly_as_far_as_training_is_given_the_same():
    rng = np.random.default_rng(5)
    found = set()
    for _ in range(400):
        a = drawn(rng)
        b = a if rng.random() < 0.05 else drawn(rng)
        if rng.random() < 0.8:  # else hardly any pair would agree for long
            keep = ("optimizer.warmup", "training.images", "training.records")
            b = build_config(dump(b), {key: dump(a)[key] for key in keep})
        last = min(a.images_at(a.training.stop), b.images_at(b.training.stop))
        images = [n for n in range(0, last + 1, 16) if trajectory(a, n) == trajectory(b, n)]
        until = shared_until(a, b)
        assert until == shared_until(b, a)
        # a knob that acts may give the same numbers as another for a few steps: sharing less is allowed, more is not
        assert until <= images[-1], (dump(a), dump(b))
        for n in range(16, last + 1, 16):
            assert (prefix_key(a, n, "d") == prefix_key(b, n, "d")) == (n <= until)
        if all(dump(a)[key] == dump(b)[key] for key in ("training.images", "optimizer.warmup", "training.records")):
            found.add(until)
            first = min((n for c in (a, b) for n, _ in independent_until(c)), default=last)
            assert until >= min(first, last)
    assert len(found) > 8


def test_states_are_stored_where_consistency_distillation_and_a_tail_begin_and_at_the_end():
    tail = {"consistency.start": 0.5, "optimizer.schedule": "wsd", "optimizer.decay": 0.25}
    assert fork_points(small(tail)) == (160, 240, 320)
    assert fork_points(small({"consistency.start": 0.5, "training.stop": 0.5})) == (160,)
    assert fork_points(small({"objective.kind": "ambient"})) == (320,)
    assert fork_points(small(DISTILLED)) == (160, 320)


DISTILLED = {"objective.kind": "ambient_distilled", "distillation.start": 0.5}


# -- every knob -------------------------------------------------------------------------------------------------------

NEVER = {  # act on no state of training
    "data.path", "data.on_corrupt", "model.preset", "model.base", "ema.length", "ema.snapshots", "ema.tracked",
    "training.stop", "training.checkpoints", "compute.prefetch", "optimizer.decay",
}  # fmt: skip
LATE = {"optimizer.schedule", "objective.kind"}
OTHERS = {
    "data.source": "folder", "data.image_size": 16, "data.channels": 3, "data.image_column": "x", "data.label_column": "x",
    "data.sigma_column": "s", "data.range": (0.0, 9.0), "data.train_size": 100, "data.heldout_size": 50,
    "data.split_seed": 1, "data.flip": True,
    "data.split.train": "x", "data.split.heldout": "y", "data.group_column": "x", "data.group_pattern": "(x)",
    "observed.sigma": 0.4, "observed.base_sigma": 0.1, "observed.clean_fraction": 0.5, "observed.seed": 1, "seed": 1,
    "noise.law": "timesteps", "model.rank": 8, "model.targets": ("to_q",),
    "noise.mean": 0.0, "noise.std": 1.0, "model.kind": "unet", "model.width": 24, "model.blocks": 2, "model.levels": 3,
    "model.multipliers": (1, 1), "model.attention": (4,), "model.head_width": 32, "model.patch": 4,
    "model.conditional": True, "model.label_dropout": 0.2, "model.sigma_data": 0.4, "optimizer.lr": 0.1,
    "optimizer.warmup": 0.5, "optimizer.weight_decay": 0.1, "optimizer.beta2": 0.9, "optimizer.clip_norm": 2.0,
    "ema.kind": "power", "ema.rampup": 0.2, "ema.halflife": 60,
    "training.images": 160, "training.batch_size": 32, "training.records": 10,
    "compute.precision": "bf16", "compute.compile": True, "compute.channels_last": True,
    "compute.accumulate": 2, "compute.activation_checkpointing": True,
    "resources.workers": 2, "resources.cpus": 2.0, "resources.gpus": 1.0,
}  # fmt: skip


def with_value(key, value, base):
    """`base` with one value changed, whatever else it contradicts."""
    name, _, inner = key.partition(".")
    return base.model_copy(update={name: with_value(inner, value, getattr(base, name)) if inner else value})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_knob_either_changes_the_key_or_is_named_as_one_that_does_not():
    """A new knob that is not told here fails: whoever adds it says where it acts."""
    base = small({"consistency.start": 0.5})
    untold = {
        key
        for key in knobs()
        if key not in NEVER | LATE | OTHERS.keys()
        and not key.startswith(("consistency.", "distillation.", "sampling.", "evaluation."))
    }
    assert untold == set()
    for key, value in OTHERS.items():
        changed = with_value(key, value, base)
        assert prefix_key(changed, 32, "d") != prefix_key(base, 32, "d"), key
        assert shared_until(changed, base) == 0, key
    sentinel = {"training.stop": 0.9, "ema.tracked": (0.05, 0.25), "optimizer.decay": 0.9}
    for key in knobs():
        if key in NEVER or key.startswith(("sampling.", "evaluation.")):
            changed = with_value(key, sentinel.get(key, "another"), base)
            assert prefix_of(changed).key(320, "d") == prefix_of(base).key(320, "d"), key
        if key.startswith("consistency.") and key != "consistency.ramp_fraction":
            value = {"consistency.start": 0.6, "consistency.weight": 7.0, "consistency.ramp": "linear"}.get(key, "x")
            changed = with_value(key, value, base)
            assert prefix_key(changed, 160, "d") == prefix_key(base, 160, "d"), key
            assert prefix_key(changed, 192, "d") != prefix_key(base, 192, "d"), key
    distilled = small(DISTILLED)
    levels = {"sampling.sigma_min", "sampling.sigma_max", "sampling.rho"}  # those that a generator is trained at
    for key in knobs():
        if key in levels or key.startswith("distillation."):
            changed = with_value(key, {"distillation.start": 0.6}.get(key, 6.5), distilled)
            assert prefix_key(changed, 160, "d") == prefix_key(distilled, 160, "d"), key
            assert prefix_key(changed, 192, "d") != prefix_key(distilled, 192, "d"), key
            assert prefix_key(with_value(key, 0.7, base), 320, "d") == prefix_key(base, 320, "d"), key
    assert prefix_key(base, 32, "d") != prefix_key(base, 32, "e")
    assert prefix_key(base, 32, "d") != prefix_key(base, 48, "d")
    assert prefix_key(base, 32, "d").startswith("000000032-")


def test_power_averages_count_by_the_lengths_tracked():
    power = {"ema.kind": "power", "ema.tracked": [0.05, 0.2], "consistency.start": 0.5}
    a, b = small(power, {"ema.length": 0.06}), small(power, {"ema.length": 0.19})
    assert shared_until(a, b) == 320
    assert shared_until(a, build_config(dump(a), {"ema.tracked": [0.05, 0.1]})) == 0


# -- against training -------------------------------------------------------------------------------------------------


def states(config, observed, images):
    """All of the state after each of `images`, in one run."""
    found, state = {}, new_state(config, observed)
    for record in train(config, observed, state, stops=frozenset(images)):
        if record.images in images:
            found[record.images] = {name: tensor.clone() for name, tensor in state.tensors().items()}
    return [found[n] for n in images]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


FAMILY = [
    {"objective.kind": "ambient"},
    {"consistency.start": 0.5},
    {"consistency.start": 0.5, "consistency.weight": 3.0},
    {"consistency.start": 0.7, "consistency.ramp": "cosine"},
    {"objective.kind": "ambient", "optimizer.schedule": "wsd", "optimizer.decay": 0.4},
    {"objective.kind": "ambient", "optimizer.schedule": "wsd", "optimizer.decay": 0.3},
    {"objective.kind": "ambient", "optimizer.schedule": "cosine", "optimizer.warmup": 0.25},
    DISTILLED,
    DISTILLED | {"distillation.ratio": 2},
    {"objective.kind": "ambient_distilled", "distillation.start": 0.7},
]


@pytest.mark.parametrize("kind", ["mlp", pytest.param("unet", marks=pytest.mark.slow)])
def test_states_are_equal_to_the_bit_exactly_as_far_as_the_prefix_says(kind):
    plain = {"optimizer.schedule": "constant", "optimizer.warmup": 0.25, "ema.rampup": 0.5, "model.kind": kind}
    if kind == "unet":
        plain |= {"model.levels": 2}
    observed = pictures(40)
    configs = [small(plain, each) for each in FAMILY]
    images = range(16, 321, 48)
    runs = [states(config, observed, images) for config in configs]
    until = set()
    for (a, mine), (b, theirs) in itertools.combinations(zip(configs, runs, strict=True), 2):
        shared = shared_until(a, b)
        until.add(shared)
        for n, first, second in zip(images, mine, theirs, strict=True):
            assert same(first, second) == (n <= shared), (n, shared)
    assert len(until) >= 5
