"""The names of what is stored: states of training, by the hash of all that determines them, and evaluations made of these.

A knob acts on a run always, never, or from some image on: consistency from its first step with a weight, distillation and
a learning-rate tail from their start. Up to there a run is the same, to the bit, whatever that knob says (Hippo's stage
trees, arXiv 2006.11972). Where it is not certain that a knob does not act, it counts as acting always. Sampling (but for a
generator's levels), evaluation, saving, stopping and `ema.length` of power averages never act on the state.
"""

import functools
import json
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ambient_sweep.config import Config
from ambient_sweep.config.positions import evaluated_lengths, snapshot_images
from ambient_sweep.errors import UserError
from ambient_sweep.object_store import fetch
from ambient_sweep.storage import digest
from ambient_sweep.training.schedules import consistency_weight, decay_start

FOLDER = "stages"  # in the folder of a sweep
TRAINED_ON = "data.json"  # fingerprints of the training data, in the folder of a sweep
FORMAT = 3  # raised whenever the same config comes to train other bits
CONSISTENCY, DISTILLATION, SCHEDULE = "consistency", "distillation", "optimizer.schedule"
SECTIONS = ("seed", "data", "observed", "noise", "model", "optimizer", "compute")  # that act always, but for
EXCEPTIONS = {
    "data": {"path", "on_corrupt"},  # the fingerprint tells what was read
    "model": {"preset", "base"},  # likewise
    "optimizer": {"schedule", "decay"},  # act late
    "compute": {"prefetch"},
}


@dataclass(frozen=True)
class Late:
    """A knob that acts on the steps after `images` only, with the settings it acts by."""

    images: int
    what: str
    settings: str


@dataclass(frozen=True)
class Prefix:
    """What determines a run: `always` from the first step on, `late` from some image on, until `last`."""

    always: str
    late: tuple[Late, ...]  # by images, at most one per knob
    last: int  # images where training ends

    def key(self, images: int, data: str) -> str:
        """A name of the state after `images` of training on `data`: the images, 9 digits, then 24 of a hash."""
        acting = [[each.what, each.settings] for each in self.late if each.images < images]
        return f"{images:09d}-{digest([FORMAT, images, data, self.always, sorted(acting)])[:24]}"

    def shared_until(self, other: "Prefix") -> int:
        """The images up to which both are the same run on the same data; 0 if never."""
        if self.always != other.always:
            return 0
        end = min(self.last, other.last)
        mine, theirs = ({each.what: each for each in run.late} for run in (self, other))
        for what in mine.keys() | theirs.keys():
            one, two = mine.get(what), theirs.get(what)
            if one != two:
                end = min(end, *(each.images for each in (one, two) if each is not None))
        return end


@functools.lru_cache(maxsize=16384)
def prefix_of(config: Config) -> Prefix:
    tree = config.model_dump(mode="json", include=set(SECTIONS), exclude=EXCEPTIONS)
    t, resources, kind = config.training, config.resources, config.objective.kind
    always: dict[str, Any] = tree | {
        "kind": "ambient" if kind in ("ambient_consistency", "ambient_distilled") else kind,
        "ema": [config.ema.halflife, config.ema.rampup] if config.ema.kind == "halflife" else list(config.ema.tracked),
        "training": [config.steps, t.batch_size, t.records],  # the sums of a record under way are part of the state
        "machine": [resources.workers, max(1, int(resources.cpus)), resources.gpus > 0],  # sums depend on the threads
    }
    late = [each for knob in (_consistency, _distillation, _schedule) if (each := knob(config)) is not None]
    return Prefix(digest(always), tuple(sorted(late, key=lambda each: each.images)), config.length)


def trained_on(root: Path) -> dict[str, str]:
    """Fingerprints of what the sweep in `root` trains on. Raises UserError where its data.json cannot be read."""
    file = root / TRAINED_ON
    fetch(file)
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error}); restore it, or use a new name") from None


def data_key(root: Path) -> str:
    """The fingerprint of all that the sweep in `root` trains on. Raises as `trained_on` does."""
    return digest(trained_on(root))[:24]


def images_of(key: str) -> int:
    """The position of a stored state, in images; 0 for any other name."""
    digits = key.partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def fork_points(config: Config, every_length: bool = False) -> tuple[int, ...]:
    """The positions, rising, at which a trial stores its state.

    Where it stops; the start of each phase of its own, consistency, distillation or a learning-rate tail (schedule wsd), up
    to which others may be the same run; and the evaluated lengths up to the last of these starts. `every_length`: all
    evaluated lengths, for trials that share their training to the end and are measured differently.
    """
    phases = (CONSISTENCY, DISTILLATION, *((SCHEDULE,) if config.optimizer.schedule == "wsd" else ()))
    last, late = config.length, prefix_of(config).late
    starts = {each.images for each in late if each.what in phases and 0 < each.images < last}
    before = last if every_length else max(starts, default=last)
    return tuple(sorted({n for n in evaluated_lengths(config) if n <= before} | {*starts, last}))


def evaluation_part(config: Config, images: int, reference_key: str) -> str:
    """The name of an evaluation of a state: a hash of all that it depends on beside the state."""
    settings: list[Any] = [
        reference_key,
        list(config.endpoints(images)),
        config.evaluation.model_dump(mode="json", exclude={"lengths", "endpoints"}),
        config.sampling.model_dump(mode="json"),
    ]
    if config.ema.kind == "power":
        settings.append(config.ema.length)
        if config.ema.length not in config.ema.tracked:  # rebuilt from the snapshots up to here
            settings.append([n for n in snapshot_images(config) if n < images])
    return f"evaluation-{digest(settings)[:24]}"


# -- when a knob begins to act ----------------------------------------------------------------------------------------


def _consistency(config: Config) -> Late | None:
    """From the first step in which the consistency loss has a weight."""
    c, steps = config.consistency, config.steps
    if config.objective.kind != "ambient_consistency":
        return None
    step = bisect_right(range(steps), 0.0, key=lambda step: consistency_weight(c, step / steps))
    settings = c.model_dump(mode="json", exclude={"start", "ramp", "ramp_fraction"})
    sudden = c.ramp == "step" or c.ramp_fraction == 0
    settings["rise"] = step if sudden else [c.start, c.ramp, c.ramp_fraction]
    return _late(config, step, CONSISTENCY, settings)


def _distillation(config: Config) -> Late | None:
    """From the first distilled step, whose levels are those of sampling."""
    if config.objective.kind != "ambient_distilled":
        return None
    step = config.images_at(config.distillation.start) // config.training.batch_size
    settings = config.distillation.model_dump(mode="json", exclude={"start"}) | {"begin": step}
    settings |= config.sampling.model_dump(mode="json", include={"sigma_min", "sigma_max", "rho"})
    return _late(config, step, DISTILLATION, settings)


def _schedule(config: Config) -> Late | None:
    """From the first step whose learning rate is not that of warm-up and peak. Step s is trained at (s + 1) / steps."""
    o, steps = config.optimizer, config.steps
    step = bisect_right(range(steps), decay_start(o), key=lambda step: (step + 1) / steps)
    return _late(config, step, SCHEDULE, [o.schedule, o.decay if o.schedule == "wsd" else 0])


def _late(config: Config, step: int, what: str, settings: Any) -> Late | None:
    """None for a step that training does not have."""
    if step == config.steps:
        return None
    return Late(step * config.training.batch_size, what, json.dumps(settings, sort_keys=True))
