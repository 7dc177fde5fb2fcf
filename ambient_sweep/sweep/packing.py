"""Whether small trials are trained together (sweep/packs.py), and how many in a process.

A short race on one of the cluster's workers decides, once for a sweep.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from ambient_sweep.config import Config
from ambient_sweep.errors import UserError
from ambient_sweep.results.records import write_json
from ambient_sweep.sweep.cluster import StopRequest
from ambient_sweep.sweep.resources import Plan, largest, parameters
from ambient_sweep.sweep.space import Sweep
from ambient_sweep.training.packed import pack_key

FILE = "packing.json"
MOST = 8  # trials in a process
TURNS = (
    6  # a place in a pack is taken so often at least: with more trials at once a search learns and shares too little
)
SMALL = 1_000_000  # parameters
WORTH = 1.5  # times as fast
PROBE_SECONDS = 4.0


@dataclass(frozen=True)
class Packing:
    """How many trials train in one process. `gain`: how many times as fast `raced` of them were; None without a race."""

    size: int = 1
    raced: int = 0
    gain: float | None = None

    def hosts(self, slots: int, limit: int | None) -> int:
        """Processes that train, where `slots` workers fit and at most `limit` trials may train at once; 0 without packs."""
        if self.size == 1:
            return 0
        return slots if limit is None else max(1, min(slots, limit // self.size))

    def concurrent(self, slots: int, limit: int | None) -> int:
        """Trials at once."""
        fitting = (self.hosts(slots, limit) or slots) * self.size
        return fitting if limit is None else min(fitting, limit)

    def lines(self) -> list[str]:
        """For people, before the start."""
        if self.gain is None:
            return [] if self.size == 1 else [f"packing: {self.size} trials train together in a process (search.pack)"]
        verdict = "used" if self.size > 1 else f"not used, which it is from {WORTH} on"
        return [
            f"packing: {self.raced} trials in one process train {self.gain:.2f} times as fast as one by one; {verdict}"
        ]


def decide(sweep: Sweep, plan: Plan, root: Path, stop: StopRequest) -> Packing:
    """What search.pack says; `auto`: what a race on one of the cluster's workers says. A sweep that goes on keeps to it.

    Raises UserError where packs are asked for and cannot be, and for a damaged file; Stopped.
    """
    known = decided(sweep, root)
    if known is not None:
        return known
    size = _most(sweep, plan)
    if size < 2:
        return Packing()
    configs = list({config.model: config for config in largest(sweep)}.values())
    raced = max(2, size // len(configs))  # where sizes are searched, a process holds fewer of each
    gain = _race(configs, raced, stop)
    packing = Packing(size if gain >= WORTH else 1, raced, gain)
    write_json(root / FILE, asdict(packing))
    return packing


def decided(sweep: Sweep, root: Path) -> Packing | None:
    """What is asked for, or was decided when the sweep began; None where neither is so. Raises as `decide`."""
    asked = sweep.search.pack
    if asked != "auto":
        check(sweep, asked)
        return Packing(asked)
    return _read(root / FILE) if (root / FILE).exists() else None


def check(sweep: Sweep, size: int) -> None:
    """Raises UserError where trials of `sweep` cannot be trained in packs of `size`."""
    if size == 1:
        return
    for config in largest(sweep):
        try:
            pack_key(config)
        except UserError as error:
            raise UserError(f"search.pack: {size}, but {error}, with search.pack=1") from None
    if "memory_gib" in sweep.search.constraints:
        raise UserError(
            f"search.pack: {size}, but search.constraints.memory_gib needs a process for each trial; use search.pack=1"
        )


def _most(sweep: Sweep, plan: Plan) -> int:
    """How many trials a process may take; below 2 where packs cannot be, or are not worth a thought."""
    limit = sweep.search.max_concurrent
    at_once = plan.searched // TURNS if limit is None else min(plan.searched // TURNS, limit)
    size = min(MOST, at_once // plan.slots)
    if size < 2 or any(parameters(config) > SMALL for config in largest(sweep)):
        return 1
    try:
        check(sweep, size)
    except UserError:  # they train as they can
        return 1
    return size


def _read(path: Path) -> Packing:
    try:
        packing = Packing(**json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(packing.size, int) or packing.size < 1:
            raise ValueError(f"size: {packing.size!r} is no number of trials")
        return packing
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, and the race is run again") from None


def _race(configs: list[Config], count: int, stop: StopRequest) -> float:
    need = configs[0].resources
    task: Any = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus)(gain)
    (factor,) = stop.results([task.remote(configs, count)])
    return float(factor)


def gain(configs: list[Config], count: int) -> float:
    """How many times as fast `count` trials of a config train together, here; of the config that gains least."""
    from ambient_sweep.training.packed_probe import packing_gain
    from ambient_sweep.trial import device_of, use_threads

    use_threads(configs[0])
    seconds = PROBE_SECONDS / len(configs)
    return min(packing_gain(config, count, seconds=seconds, device=device_of(config)) for config in configs)
