"""Slots, concurrency and disk against numbers worked out by hand."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import ray
import torch
from made_up_sweeps import make_trial

from ambient_sweep.config import ResourcesConfig, build_config
from ambient_sweep.errors import UserError
from ambient_sweep.models import build_model
from ambient_sweep.sweep.running.preflight import (
    Node,
    concurrent_trials,
    node_slots,
    parameters,
    preflight,
    ray_nodes,
    stage_bytes,
    trial_bytes,
)
from ambient_sweep.sweep.space.file import load_sweep


def need(workers: int = 1, cpus: float = 1, gpus: float = 0) -> ResourcesConfig:
    return ResourcesConfig(workers=workers, cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("node", "wanted", "slots"),
    [
        (Node(2, 0), need(cpus=1), 2),
        (Node(2, 0), need(cpus=0.1), 20),  # 2 / 0.1 is below 20 in floats
        (Node(0.3, 0), need(cpus=0.1), 3),
        (Node(8, 0), need(cpus=3), 2),
        (Node(16, 2), need(cpus=1, gpus=1), 2),
        (Node(16, 2), need(cpus=1, gpus=0.5), 4),
        (Node(16, 2), need(cpus=1, gpus=0.6), 2),  # one on each; three would need a share across two GPUs
        (Node(16, 2), need(cpus=12, gpus=0.5), 1),
        (Node(16, 0), need(cpus=1, gpus=1), 0),
    ],
)
def test_slots_of_a_node(node: Node, wanted: ResourcesConfig, slots: int) -> None:
    assert node_slots(node, wanted) == slots


@pytest.mark.parametrize(
    ("nodes", "wanted", "limit", "expected"),
    [
        ([Node(2, 0)], need(), None, 2),
        ([Node(2, 0)], need(), 1, 1),
        ([Node(2, 0)], need(workers=2), None, 1),
        ([Node(2, 0), Node(3, 0)], need(workers=2), None, 2),
        ([Node(3, 0), Node(3, 0)], need(workers=1, cpus=2), None, 2),  # not 3: a worker lies on one node
    ],
)
def test_trials_at_once(nodes: list[Node], wanted: ResourcesConfig, limit: int | None, expected: int) -> None:
    assert concurrent_trials(nodes, wanted, limit) == expected


@pytest.mark.parametrize(
    ("nodes", "wanted", "numbers"),
    [
        (
            [Node(2, 0), Node(2, 0)],
            need(cpus=4),
            "a worker needs 4 CPUs, which no node of the cluster has (nodes: 2 CPUs",
        ),
        ([Node(2, 0)], need(gpus=1), "a worker needs 1 CPUs and 1 GPUs, which no node"),
        (
            [Node(2, 0)],
            need(workers=3),
            "resources.workers: a trial needs 3 workers of 1 CPUs, but the cluster holds 2",
        ),
        ([Node(64, 8)], need(gpus=1.5), "resources.gpus: 1.5 must be a whole number"),
        ([], need(), "(nodes: none)"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_numbers(nodes: list[Node], wanted: ResourcesConfig, numbers: str) -> None:
    with pytest.raises(UserError) as caught:
        concurrent_trials(nodes, wanted)
    assert numbers in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dead_nodes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    answer: list[dict[str, Any]] = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 1e9}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {"memory": 1e9}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: answer)
    assert ray_nodes() == [Node(4, 1), Node(0, 0)]


SWEEP = """
base: {model: {kind: mlp, width: 32, blocks: 1}, training: {images: 6400, batch_size: 64}}
space: {observed.sigma: {uniform: [0.1, 0.5]}, model.width: {choice: [32, 64]}}
controls: [{set: {training.images: 640, evaluation: {}}}]
search: {trials: 3}
"""


def test_the_plan_counts_trials_images_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    sweep = load_sweep(tmp_path / "s.yaml")
    plan = preflight(sweep, [Node(2, 0)], tmp_path)
    assert (plan.trials, plan.searched, plan.concurrent) == (5, 3, 2)
    assert plan.images == 6400 + 640 + 3 * 6400
    small, large = (trial_bytes(build_config(sweep.base, {"model.width": width})) for width in (32, 64))
    clean = trial_bytes(sweep.config_for(sweep.fixed_trials()[0].values))  # one endpoint less, so fewer pictures
    shared = [4 * 4 * (4 + 2) * parameters(build_config(sweep.base, {"model.width": width})) for width in (32, 64)]
    shared.append(shared[0] * (8 + 2) // (4 + 2))  # clean training is evaluated at twice as many lengths
    assert plan.disk_bytes == clean + small + 3 * large + shared[0] + 3 * shared[1] + shared[2]
    bounded = dataclasses.replace(sweep, search=sweep.search.model_copy(update={"stages_gib": 0.0}))
    assert preflight(bounded, [Node(2, 0)], tmp_path).disk_bytes == clean + small + 3 * large
    assert any("5 (3 searched, 2 fixed), 2 at once" in line for line in plan.lines())
    assert any("26,240 images" in line for line in plan.lines())


@pytest.mark.parametrize("kinds", ["[ambient, ambient_distilled]", "[ambient_distilled, ambient]"])
def test_the_largest_trial_is_found_wherever_its_kinds_stand(tmp_path: Path, kinds: str) -> None:
    space = f"""{{objective.kind: {{choice: {kinds}}}, model.kind: {{choice: [mlp, unet]}}, model.width: {{int: [16, 32]}},
      distillation.start: {{uniform: [0.25, 0.6], when: {{objective.kind: ambient_distilled}}}}}}"""
    (tmp_path / "s.yaml").write_text(
        f"base: {{model: {{blocks: 1}}, observed.base_sigma: 0.1}}\nspace: {space}\nsearch: {{trials: 3}}"
    )
    sweep = load_sweep(tmp_path / "s.yaml")
    largest = {
        "objective.kind": "ambient_distilled",
        "model.kind": "unet",
        "model.width": 32,
        "distillation.start": 0.6,
    }
    config = sweep.config_for(largest | {"observed.sigma": 0.2})
    assert preflight(sweep, [Node(2, 0)], tmp_path).disk_bytes == 3 * (trial_bytes(config) + stage_bytes(config))


def test_a_plan_trains_no_more_than_the_search_may(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP.replace("{trials: 3}", "{images: 9000}"))
    plan = preflight(load_sweep(tmp_path / "s.yaml"), [Node(2, 0)], tmp_path)
    assert (plan.searched, plan.images) == (
        32,
        2 * 6400 + 640 + 9000,
    )  # 16 for each of two trainings that are begun, and clean training with the other width


def test_a_network_beyond_the_bound_is_refused_where_it_is_the_only_one(tmp_path: Path) -> None:
    bound = "{trials: 3, constraints: {parameters: 10}}"
    (tmp_path / "s.yaml").write_text(SWEEP.replace("{trials: 3}", bound))
    assert preflight(load_sweep(tmp_path / "s.yaml"), [Node(2, 0)], tmp_path).searched == 3, "others may be smaller"
    (tmp_path / "s.yaml").write_text(
        SWEEP.replace("{trials: 3}", bound).replace(", model.width: {choice: [32, 64]}", "")
    )
    with pytest.raises(
        UserError, match=r"search\.constraints\.parameters=10: every network of the sweep has [\d,]+; raise"
    ):
        preflight(load_sweep(tmp_path / "s.yaml"), [Node(2, 0)], tmp_path)


def test_parameters_are_those_of_the_model() -> None:
    config = build_config({"model": {"kind": "unet", "width": 16, "blocks": 1}})
    model = build_model(config.model, (1, 8, 8), 0)
    assert parameters(config) == sum(p.numel() for p in model.parameters())
    assert all(p.device == torch.device("cpu") for p in model.parameters())


def test_a_full_disk_is_refused_with_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    (tmp_path / "s.yaml").write_text(SWEEP)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free=3 * 2**19))
    with pytest.raises(UserError, match=r"5 trials write up to \d+\.\d MiB of checkpoints, but 1\.5 MiB are free"):
        preflight(load_sweep(tmp_path / "s.yaml"), [Node(2, 0)], tmp_path)


def test_a_finite_space_needs_no_more_trials_than_it_holds(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("space: {consistency.ramp: {choice: [step, linear]}}\nsearch: {trials: 50}\n")
    assert preflight(load_sweep(tmp_path / "s.yaml"), [Node(2, 0)], tmp_path).searched == 2


def test_a_resumed_sweep_needs_room_for_what_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    sweep = load_sweep(tmp_path / "s.yaml", {"search.stages": False})
    fixed = [sweep.config_for(trial.values) for trial in sweep.fixed_trials()]
    ended = [make_trial("b", fixed[0], role="baseline"), make_trial("a", fixed[0]), make_trial("c", fixed[0])]
    large = trial_bytes(build_config(sweep.base, {"model.width": 64}))
    assert preflight(sweep, [Node(2, 0)], tmp_path, ended).disk_bytes == trial_bytes(fixed[1]) + large
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**10))
    with pytest.raises(UserError, match=r": 2 trials write up to \d+\.\d MiB of .* are free; make room there$"):
        preflight(sweep, [Node(2, 0)], tmp_path, ended)
