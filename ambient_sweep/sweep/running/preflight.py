"""What a sweep needs and whether it fits, worked out before anything starts.

A trial of one worker runs in its own process. A trial of more is a driver, which only waits, and one process for each
worker. The driver asks for a little memory and for no CPU: with a CPU of its own, a trial of two workers would wait for
ever on two CPUs.
"""

import itertools
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ambient_sweep import models
from ambient_sweep.config import Config, ResourcesConfig, build_config
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.required_images import unresolved
from ambient_sweep.object_store import copy_of
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.running.machine import cores
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.trial.records import TrialRecord

DRIVER_MEMORY = 2**20  # bytes; a bundle of a placement group may not be empty
STATE_COPIES = 3  # training states on disk at once: the two newest, and the one being written
CLASSES = 1000  # taken for the number of classes, which only the images tell; it hardly matters
PICTURE_BYTES = 300_000  # an evaluation's picture, record and events
LOOK_SECONDS = 5.0  # between two looks at the cluster's nodes
LEAST_GPUS = 1e-4  # of Ray's
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Plan:
    """What the sweep will need, in numbers."""

    trials: int
    searched: int
    concurrent: int  # trials at once
    images: int  # images to train over all trials, at most
    disk_bytes: int  # at most
    free_bytes: float  # infinite in an object store
    networks: tuple[str, ...]  # the smallest and the largest
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people, before the start."""
        fixed = self.trials - self.searched
        free = f" of {size_text(self.free_bytes)} free" if math.isfinite(self.free_bytes) else ""
        return [
            f"trials: {self.trials:,} ({self.searched} searched, {fixed} fixed), {self.concurrent} at once",
            f"to train: at most {self.images:,} images",
            f"disk: at most {size_text(self.disk_bytes)}{free}",
            f"network: {' to '.join(self.networks)}",
            *self.warnings,
        ]


def node_slots(node: Node, need: ResourcesConfig) -> int:
    """How many workers fit on one node. Part of a GPU always lies within one GPU."""
    slots = math.floor(node.cpus / need.cpus + 1e-9)
    if need.gpus >= 1:
        slots = min(slots, math.floor(node.gpus / need.gpus + 1e-9))
    elif need.gpus > 0:
        slots = min(slots, math.floor(node.gpus) * math.floor(1 / need.gpus + 1e-9))
    return slots


def concurrent_trials(nodes: Sequence[Node], need: ResourcesConfig, limit: int | None = None) -> int:
    """Trials that fit on the cluster at once (`limit` at most).

    Raises UserError with the numbers where not even one trial fits.
    """
    if (need.gpus > 1 and need.gpus != int(need.gpus)) or 0 < need.gpus < LEAST_GPUS:
        raise UserError(f"resources.gpus: {need.gpus:g} must be a whole number or a fraction from {LEAST_GPUS} to 1")
    slots = [node_slots(node, need) for node in nodes]
    fitting = sum(slots) // need.workers
    if fitting:
        return min(fitting, limit or fitting)
    worker = f"{need.cpus:g} CPUs" + (f" and {need.gpus:g} GPUs" if need.gpus else "")
    has = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes) or "none"
    if max(slots, default=0) == 0:
        raise UserError(
            f"resources: a worker needs {worker}, which no node of the cluster has (nodes: {has}); "
            "lower resources.cpus or resources.gpus, or add a node"
        )
    raise UserError(
        f"resources.workers: a trial needs {need.workers} workers of {worker}, but the cluster holds {sum(slots)} "
        f"(nodes: {has}); lower resources.workers, or add a node"
    )


class Fitting:
    """How many trials fit on the cluster as it is, looked at now and then; one where none does, which waits for a node."""

    def __init__(self, need: ResourcesConfig, limit: int | None) -> None:
        self._need, self._limit, self._looked, self._found = need, limit, -math.inf, 1

    def __call__(self) -> int:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            slots = sum(node_slots(node, self._need) for node in ray_nodes())
            self._found = max(1, min(slots // self._need.workers, self._limit or slots))
        return self._found


def preflight(sweep: Sweep, nodes: Sequence[Node], storage: Path, ended: Sequence[TrialRecord] = ()) -> Plan:
    """The plan of a sweep on a cluster of `nodes` that writes to `storage`, where these trials have `ended` and written.

    Raises UserError, with the numbers, for a trial that cannot fit, a disk that is too small, and a network that is not
    searched and has more parameters than the search may train.
    """
    searched = int(min(sweep.trials, sweep.size()))
    fixed = [sweep.config_for(trial.values) for trial in sweep.fixed_trials()]
    sizes = largest(sweep)
    bound, weights = sweep.search.constraints.get("parameters", math.inf), parameters(sizes[0])
    if weights > bound and not any(key.startswith("model.") for key in sweep.space):
        raise UserError(
            f"search.constraints.parameters={bound:g}: every network of the sweep has {weights:,}; raise it"
        )
    concurrent = concurrent_trials(nodes, sizes[0].resources, sweep.search.max_concurrent)
    trials = searched + len(fixed)
    images = sum(c.length for c in fixed) + min(
        searched * max(c.length for c in sizes), sweep.search.images or math.inf
    )
    now = {"model.base": sweep.base.get("model.base")}  # it may lie elsewhere than when they trained
    done = [build_config(trial.config, now) for trial in ended if trial.role in ("baseline", "control")]
    more = max(0, searched - sum(trial.role == "search" for trial in ended))

    def left(size: Callable[[Config], int]) -> int:
        return max(0, sum(map(size, fixed)) - sum(map(size, done)) + more * max(map(size, sizes)))

    disk = left(trial_bytes)
    if sweep.search.stages:
        stored = Stages(storage).bytes() if ended else 0
        disk += max(0, int(min(left(stage_bytes), sweep.search.stages_gib * GIB - stored)))
    free = math.inf if copy_of(storage) else shutil.disk_usage(storage).free
    if disk > free:
        fewer = (
            "lower search.trials, evaluate at fewer evaluation.lengths, use a smaller model, or give another --storage"
        )
        raise UserError(
            f"{storage}: {len(fixed) - len(done) + more} trials write up to {size_text(disk)} of checkpoints, but "
            f"{size_text(free)} are free; {'make room there' if ended else fewer}"
        )
    networks = tuple(models.describe(c.model, *_inputs(c)) for c in {c.model: c for c in sizes}.values())
    warnings = tuple(unresolved(sizes[0].evaluation))
    return Plan(trials, searched, min(concurrent, trials), int(images), disk, free, networks, warnings)


def size_text(count: float) -> str:
    """Bytes for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"


def trial_bytes(config: Config) -> int:
    """Bytes that a trial leaves on disk, at most: averaged weights per evaluated length, states, snapshots, records."""
    weights, lengths = 4 * parameters(config), evaluated_lengths(config)
    snapshots = 2 * (config.ema.snapshots + len(lengths) + 1) if config.ema.kind == "power" else 0
    pictures = PICTURE_BYTES * sum(len(config.endpoints(images)) for images in lengths)
    return weights * (len(lengths) + snapshots) + STATE_COPIES * _state_bytes(config) + pictures


def stage_bytes(config: Config) -> int:
    """Bytes of the states that a trial stores for others, at most; the rest of what it stores are links to its own files."""
    return (len(evaluated_lengths(config)) + 2) * _state_bytes(config)


def _state_bytes(config: Config) -> int:
    """Of weights, two moments and averages; of a distilled run also of the teacher, the fake denoiser and its moments."""
    more = 4 * (config.objective.kind == "ambient_distilled") + (config.ema.kind == "power")
    return (4 + more) * 4 * parameters(config)


def parameters(config: Config) -> int:
    """Number of weights of the config's model."""
    return models.parameters(config.model, *_inputs(config))


def _inputs(config: Config) -> tuple[tuple[int, int, int], int]:
    """The shape of the images, and the number of their classes."""
    size = config.data.image_size
    return (config.data.channels, size, size), CLASSES if config.model.conditional else 0


def ray_nodes() -> list[Node]:
    """The living nodes of the cluster that this process is connected to."""
    import ray

    living = (node["Resources"] for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in living]


def this_machine() -> list[Node]:
    """The node that a Ray started here would have."""
    return [Node(cores(), torch.cuda.device_count())]


def largest(sweep: Sweep) -> list[Config]:
    """The configs among which the largest and longest trial of the search lies: each size at either end, beside each choice
    of objective, averages and kind of network."""
    ends: dict[str, Any] = {key: d.values[0] for key, d in sweep.space.items()}
    sizes, kinds = {}, {}
    for key, d in sweep.space.items():
        if key.startswith(("model.", "training.", "distillation.", "objective.", "ema.")):
            if all(isinstance(value, int | float) for value in d.values):
                sizes[key] = max(d.values)
            else:
                kinds[key] = d.values
    chosen = [ends | dict(zip(kinds, each, strict=True)) for each in itertools.product(*kinds.values())]
    return [sweep.config_for(sweep.active(values)) for each in chosen for values in (each, each | sizes)]
