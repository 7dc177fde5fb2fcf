"""A pack against the same models trained one by one: what is trained, what is told, and what a state in a pack is."""

import dataclasses
from contextlib import closing
from statistics import median

import pytest
import torch
from small_runs import BASE, CONDITIONAL, UNET, assert_same_bits, distance, new_state, observations, pictures, run

from ambient_sweep.config import build_config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.diffusion.denoiser import given
from ambient_sweep.errors import TrainingDiverged, UserError
from ambient_sweep.models import build_model
from ambient_sweep.training import objective
from ambient_sweep.training.health import FEWEST
from ambient_sweep.training.packed import train_packed
from ambient_sweep.training.packed_memory import PackedStates
from ambient_sweep.training.packed_probe import packing_gain
from ambient_sweep.training.packed_step import PackedStepper, feed
from ambient_sweep.training.state import TrainState
from ambient_sweep.training.stream import Stream

LONG = BASE | {"training": {"images": 16 * 100, "batch_size": 16, "records": 10}}
# what members may differ in, each beside the base itself
CHANGES = [
    {},
    {"seed": 5, "optimizer.lr": 3e-3, "optimizer.weight_decay": 0.1, "optimizer.beta2": 0.95},
    {"consistency.start": 0.2, "consistency.ramp": "linear", "consistency.weight": 3.0},
    {"consistency.start": 0.3, "consistency.batch_share": 0.04},  # in some steps no image takes part
    {"consistency.start": 0.1, "consistency.batch_share": 0.3, "training.stop": 0.6},
    {"consistency.target": "ema", "consistency.start": 0.4, "ema.kind": "power", "ema.tracked": [0.05, 0.2]},
    {"consistency.chain_steps": 3, "consistency.branch": "last", "consistency.draws": 3, "consistency.start": 0},
    {"consistency.gradient": "rollout", "consistency.chain_steps": 3, "consistency.origin": "everywhere"},
    {"objective.kind": "ambient", "optimizer.schedule": "constant", "ema.halflife": 0},
    {"objective.kind": "denoising", "noise.mean": -0.5, "optimizer.clip_norm": 0.05},
    {"objective.kind": "ambient_high_clean_low", "data.flip": True, "training.stop": 0.3},
]


def packed(configs, observeds, states=None, **options):
    """The states at the end, and the outcomes of each."""
    states = states or [new_state(*each) for each in zip(configs, observeds, strict=True)]
    told = [[] for _ in configs]
    for together in train_packed(configs, observeds, states, **options):
        for index, outcome in together:
            told[index].append(outcome)
    return states, told


def numbers(record):
    values = dataclasses.asdict(record)
    del values["images_per_second"]
    return values


def assert_same_training(state, told, alone, records, tolerance):
    """Weights, averages, moments: each relative to the whole of its kind. Records as far as their numbers go."""
    assert (state.images, state.rewinds, len(told)) == (alone.images, alone.rewinds, len(records))
    ours, theirs = state.tensors(), alone.tensors()
    assert ours.keys() == theirs.keys()
    for kind in ("model.", "average.", "optimizer.exp_avg.", "optimizer.exp_avg_sq.", "optimizer.step."):
        a, b = (torch.cat([t.flatten() for n, t in each.items() if n.startswith(kind)]) for each in (ours, theirs))
        # moments are sums of gradients that cancel each other
        assert (a - b).norm() <= (tolerance if "exp" not in kind else 100 * tolerance) * b.norm(), kind
    for one, other in zip(told, records, strict=True):
        assert (one.images, one.lr, one.consistency_weight) == (other.images, other.lr, other.consistency_weight)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)
        assert one.consistency == pytest.approx(other.consistency, rel=1e-3, abs=1e-5)


def test_members_of_unlike_configs_are_trained_as_each_by_itself():
    """A hundred steps. The distance allowed is 1e-6 of the weights' norm, some ten roundings of float32; that training in
    parts of a batch (compute.accumulate) is as far off is tested below."""
    configs = [build_config(LONG, changes) for changes in CHANGES]
    observeds = [observations(clean=True, sigma=0.3 + 0.02 * i, seed=i % 3) for i in range(len(configs))]
    states, told = packed(configs, observeds)
    for config, observed, state, records in zip(configs, observeds, states, told, strict=True):
        assert_same_training(state, records, *run(config, observed), tolerance=1e-6)


def test_a_pack_is_as_near_to_serial_training_as_that_is_to_itself_in_parts():
    """The yardstick of the tolerance: the same config in two parts of a batch, which docs/training.md calls the same."""
    changes = {"training.images": 16 * 300, "consistency.start": 0.2}
    config = build_config(BASE, changes)
    alone, _ = run(config, observations())
    parts, _ = run(build_config(BASE, changes, {"compute.accumulate": 2}), observations())
    (state, _), _ = packed([config, config], [observations(), observations(seed=1)])
    assert distance(state, alone) <= max(2 * distance(parts, alone), 1e-7)


NETWORKS = {
    "mlp": {"model": {"kind": "mlp", "width": 32, "blocks": 2}},
    "unet": UNET | {"model.attention": [4]},
    "dit": {"model": {"kind": "dit", "width": 32, "blocks": 2, "patch": 2, "head_width": 16}, "data.image_size": 8},
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_are_those_of_each_network(kind):
    """Of weights that are zero nowhere, parameter by parameter, against passes and sums written out."""
    changes = [{"consistency.start": 0, "consistency.draws": 3}, {"consistency.weight": 0.5, "consistency.start": 0}]
    layers = (BASE, NETWORKS[kind], CONDITIONAL, {"data.channels": 1})
    configs = [build_config(*layers, {"seed": n, "consistency.draws": 3}, changes[n % 2]) for n in range(3)]
    observed = pictures()
    streams = [Stream(observed, config.seed, False) for config in configs]
    steps = [0, 3, 5]
    states = [new_state(config, observed) for config in configs]
    generator = torch.Generator().manual_seed(0)
    for state in states:
        for parameter in state.denoiser.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    serial = [_gradients(*each) for each in zip(configs, streams, steps, states, strict=True)]
    memory = PackedStates(states)
    memory.clip = lambda largest: torch.zeros(3)
    memory.descend = lambda rates: None
    PackedStepper(memory, configs).step(feed(configs, streams, steps), [0.0] * 3, [0] * 3, [1] * 3)
    for name, ours in memory.parts(memory.grads).items():
        for mine, theirs in zip(ours, serial, strict=True):
            assert theirs[name].norm() > 0, name
            assert (mine - theirs[name]).norm() <= 1e-5 * theirs[name].norm(), name


def _gradients(config, stream, step, state):
    """A step's gradients written out, by the name of the parameter."""
    size = config.training.batch_size
    draws = objective.draw(config, stream.batch(step * size, size), True)
    model = build_model(config.model, state.shape, config.seed, state.classes)
    model.load_state_dict(state.denoiser.state_dict())
    loss = objective.main_loss(given(model, draws.labels), draws).mean()
    chains = draws.consistency
    sharing = objective.takes_part(step * size, size, config.consistency.batch_share).sum()
    extra = objective.consistency_term(config, given(model, chains.labels), chains).sum() / max(sharing, 1)
    (loss + config.consistency.weight * extra).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_other_networks_are_trained_as_by_themselves(kind):
    layers = (BASE, NETWORKS[kind], CONDITIONAL, {"data.channels": 1, "training.images": 16 * 12})
    configs = [build_config(*layers, {"seed": n, "consistency.start": 0.3 * n}) for n in range(3)]
    observeds = [pictures(clean_share=share) for share in (0.0, 0.5, 1.0)]  # the last has no chain at all
    states, told = packed(configs, observeds)
    for config, observed, state, records in zip(configs, observeds, states, told, strict=True):
        assert_same_training(state, records, *run(config, observed), tolerance=1e-5)


def test_states_in_a_pack_are_saved_forked_and_mixed_with_serial_training(tmp_path):
    """One at the start, one in the middle of its run; saved between two steps, loaded, and trained on by itself."""
    config, other = build_config(BASE), build_config(BASE, {"seed": 1})
    half, _ = run(build_config(BASE, {"training.stop": 0.5}), observations())
    alone = [run(config, observations()), run(other, observations())]
    states = [half, new_state(other, observations())]
    saved = {}
    stops = [frozenset({464})] * 2
    for together in train_packed([config, other], [observations()] * 2, states, stops=stops):
        for index, record in together:
            if record.images == 464:
                states[index].save(tmp_path / str(index))
                saved[index] = {name: tensor.clone() for name, tensor in states[index].tensors().items()}
                average = states[index].average  # a model of its own
                assert not any(p.requires_grad for p in average.parameters())
    assert saved.keys() == {0, 1}
    for index, each in enumerate((config, other)):
        forked = TrainState.load(tmp_path / str(index), each, states[index].shape)
        assert forked.images == 464
        for name, tensor in forked.tensors().items():
            assert torch.equal(tensor, saved[index][name]), name
        run(each, observations(), forked)
        for state in (forked, states[index]):
            assert state.images == 640
            assert distance(state, alone[index][0]) < 1e-6
            assert state.losses == pytest.approx(alone[index][0].losses, rel=1e-5)


def test_a_member_that_stops_early_is_the_beginning_of_a_longer_run():
    """Between two records, to the bit within one pack: alone at its end, beside another that goes on."""
    longer = [build_config(BASE, {"seed": n}) for n in range(2)]
    for steps in (17, 22, 27):
        early = [build_config(BASE, {"seed": 0, "training.stop": steps / 40}), longer[1]]
        (state, _), (told, _) = packed(early, [observations()] * 2)
        assert (state.images, told[-1].images) == (16 * steps, 16 * steps)
        passing = [new_state(config, observations()) for config in longer]
        packed(longer, [observations()] * 2, passing, interrupted=lambda at=steps, s=passing: s[0].images >= 16 * at)
        assert_same_bits(state, passing[0])
        whole, records = run(longer[0], observations())
        _, (after,) = packed(longer[:1], [observations()], [state])
        assert distance(state, whole) < 1e-6
        assert state.losses == pytest.approx(whole.losses, rel=1e-5)
        assert [r.images for r in told[:-1] + after] == [r.images for r in records]


def test_a_member_that_left_has_memory_of_its_own_and_goes_on_by_itself():
    configs = [build_config(BASE, {"seed": n}) for n in range(3)]
    states = [new_state(config, observations()) for config in configs]
    _, told = packed(configs, [observations()] * 3, states, leaves=lambda index: index == 1 and states[1].images >= 80)
    assert [each[-1].images for each in told] == [640, 80, 640]
    assert [state.images for state in states] == [640, 80, 640]
    whole, _ = run(configs[1], observations())
    state, _ = run(configs[1], observations(), states[1])
    assert distance(state, whole) < 1e-6
    for state in states:
        for name, tensor in state.tensors().items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_interrupting_and_closing_leave_states_that_go_on():
    configs = [build_config(BASE, {"seed": n}) for n in range(2)]
    states = [new_state(config, observations()) for config in configs]
    _, told = packed(configs, [observations()] * 2, states, interrupted=lambda: states[0].images >= 144)
    assert [[record.images for record in each] for each in told] == [[64, 128, 144]] * 2
    with closing(train_packed(configs, [observations()] * 2, states)) as records:
        assert [index for index, _ in next(records)] == [0, 1]
    packed(configs, [observations()] * 2, states)
    for config, state in zip(configs, states, strict=True):
        alone, _ = run(config, observations())
        assert distance(state, alone) < 1e-6
        assert state.losses == pytest.approx(alone.losses, rel=1e-5)
    assert packed(configs, [observations()] * 2, states)[1] == [[], []]  # nothing is left to train


def test_the_same_pack_gives_the_same_bits():
    configs = [build_config(BASE, changes) for changes in CHANGES[:5]]
    (one, _), (two, _) = (packed(configs, [observations()] * 5) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        assert_same_bits(first, second)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_member_that_diverges_harms_no_other(value):
    configs = [build_config(BASE, {"seed": n}) for n in range(3)]
    observeds = [observations(seed=n) for n in range(3)]
    bad = observations(seed=1)
    bad = ObservedImages(torch.where(torch.arange(64)[:, None, None, None] == 7, value, bad.images), bad.sigma)
    states, told = packed(configs, [observeds[0], bad, observeds[2]])
    assert [type(outcome) for outcome in told[1]] == [TrainingDiverged]
    with pytest.raises(TrainingDiverged, match=str(told[1][0]).split("(")[0][:20]):
        run(configs[1], bad)
    for n in (0, 2):
        assert_same_training(states[n], told[n], *run(configs[n], observeds[n]), tolerance=1e-6)


def test_a_spike_is_told_as_the_loop_tells_it():
    """With a bound that the noise of the loss passes sooner or later, in the same record."""
    configs = [build_config(BASE, {"training.spike": spike}) for spike in (None, 1.05)]
    states, told = packed(configs, [observations()] * 2)
    alone = new_state(configs[1], observations())
    with pytest.raises(TrainingDiverged, match=r"training\.spike") as caught:
        run(configs[1], observations(), alone)
    assert isinstance(told[1][-1], TrainingDiverged)
    assert str(told[1][-1]) == str(caught.value)
    assert (states[1].images, len(told[0])) == (alone.images, 10)


def test_a_spike_up_to_an_early_stop_is_told_too():
    """Where the mean since the last record passes a bound that no record before it passes."""
    _, means = run(build_config(BASE), observations(), stops=frozenset(range(0, 641, 16)))
    regular = [mean for mean in means if mean.images % 64 == 0]
    ratios = {}
    for mean in means:
        before = [each.loss for each in regular if each.images < mean.images]
        if len(before) >= FEWEST:
            ratios[mean.images] = mean.loss / median(before)
    at = max((images for images in ratios if images % 64), key=lambda images: ratios[images])
    highest = max(ratio for images, ratio in ratios.items() if images % 64 == 0 and images < at)
    spike = (max(highest, 1) + ratios[at]) / 2
    assert highest < spike < ratios[at]
    early = build_config(BASE, {"training.spike": spike, "training.stop": at / 640})
    with pytest.raises(TrainingDiverged, match=f"at {at} images") as caught:
        run(early, observations())
    _, told = packed([build_config(BASE), early], [observations()] * 2)
    assert str(told[1][-1]) == str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"compute.precision": "bf16"}, "compute.precision: bf16 cannot be trained in a pack; use float32"),
        ({"compute.compile": True}, "compute.compile: True cannot"),
        ({"compute.accumulate": 2}, "compute.accumulate: 2 cannot"),
        ({"compute.activation_checkpointing": True}, "compute.activation_checkpointing: True cannot"),
        ({"compute.parallel": "fsdp", "resources.workers": 2}, "compute.parallel: fsdp cannot"),
        ({"model.width": 64}, "model: that of member 1 is not that of member 0"),
        ({"model.sigma_data": 0.6}, "model: that of member 1"),
        ({"training.batch_size": 32}, "training.batch_size: that of member 1"),
    ],
)
def test_what_cannot_be_packed_is_refused_at_once_in_a_line(changes, line):
    configs = [build_config(BASE), build_config(BASE, changes)]
    plain = {"compute.parallel": "ddp", "resources.workers": 1} if "compute.parallel" in changes else {}
    states = [
        new_state(build_config(BASE, changes if config is configs[1] else {}, plain), observations())
        for config in configs
    ]
    with pytest.raises(UserError, match="^" + line) as caught:
        train_packed(configs, [observations()] * 2, states)
    assert "\n" not in str(caught.value)


def test_images_of_another_shape_are_refused():
    config = build_config(BASE)
    with pytest.raises(UserError, match=r"^data: the images of member 1"):
        train_packed(
            [config] * 2, [observations(), pictures()], [new_state(config, o) for o in (observations(), pictures())]
        )
    with pytest.raises(ValueError, match="2 configs, 1 observations"):
        train_packed([config] * 2, [observations()], [])


def test_the_probe_races_every_phase_of_a_run():
    for changes in ({}, {"objective.kind": "denoising", "observed.sigma": 0}, {"consistency.start": 0}):
        config = build_config(BASE, {"data.image_size": 8, "data.channels": 1}, changes)
        assert packing_gain(config, 2, seconds=0.1) > 0
