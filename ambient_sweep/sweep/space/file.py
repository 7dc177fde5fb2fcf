"""The sweep file: what is fixed, what is searched, what runs beside the search.

name: digits                               # default: the file's name
base: {data: {source: digits}}             # config keys, nested or dotted; `ambient-sweep knobs` lists them
space:
  observed.sigma: {uniform: [0.1, 0.5]}    # uniform, loguniform, int, logint: both ends included
  consistency.ramp: {choice: [step, linear]}
  # also: {uniform: [0.05, 0.5], step: 0.05}, {loguniform: [0.1, 3], when: {objective.kind: ambient_consistency}}
points: [{observed.sigma: 0.2}]            # tried first; keys left out are sampled
controls: [{label: no consistency, seeds: [0, 1], set: {objective.kind: ambient}}]
baseline: {seeds: [0]}                     # ordinary training on clean images
search: {trials: 24, sampler: tpe, seed: 0}
confirm: {samples: 4x, seeds: 0}           # the frontier again, on more samples and fresh seeds
x-anything: &shared {...}                  # read where *shared or <<: *shared stands
"""

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from ambient_sweep.config import check_keys, flatten, knobs, read_yaml
from ambient_sweep.config.files import (
    SECTIONS,
    absolute_paths,
    nested,
    overlay,
    read_value,
    validated,
    without_empty_sections,
)
from ambient_sweep.config.sections import Section
from ambient_sweep.config.values import did_you_mean, is_acting, shown
from ambient_sweep.errors import UserError
from ambient_sweep.storage import write_atomic
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import TRIALS, Baseline, Confirm, Control, Search, Sweep
from ambient_sweep.sweep.space.distributions import KINDS, Distribution, read_distribution

SWEEP_FILE = "sweep.yaml"  # in the folder of a sweep
# sections that KEY=VALUE changes beside the base
OWN: dict[str, type[Section]] = {"search": Search, "confirm": Confirm, "baseline": Baseline}
SHARED = ("data.", "evaluation.", "resources.")  # one value for all trials of a sweep
SHARED_KEYS = ("observed.base_sigma", "observed.seed", "model.base")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Values = dict[str, Any]


class SweepFile(Section):
    """The sections of a sweep file, as they are written."""

    name: str
    base: Values = Field(default_factory=dict)
    space: Values = Field(default_factory=dict)
    points: tuple[Values, ...] = ()
    controls: tuple[Control, ...] = ()
    baseline: Baseline | None = None
    search: Search = Search()
    confirm: Confirm = Confirm()


def load_sweep(path: Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """The sweep in a YAML file, with `overrides` on config keys of its base and on its `search.*`, `confirm.*`,
    `baseline.seeds`, `name`, and on distributions: `space.observed.sigma` is {"uniform": [0.1, 0.6]}.

    Raises UserError, one line that names the file and the key.
    """
    where, empty = str(path), {"name": path.stem, "points": [], "controls": []}
    tree = {"name": None} | read_yaml(path)
    if is_config(tree):
        raise UserError(f"{where}: is the config of one run, not a sweep; use `ambient-sweep train`")
    tree = {name: empty.get(name, {}) if section is None else section for name, section in tree.items()}
    given_space = {key: value for key, value in (overrides or {}).items() if key.startswith("space.")}
    changes = flatten({key: value for key, value in (overrides or {}).items() if key not in given_space})
    own = {key: changes.pop(key) for key in list(changes) if key.partition(".")[0] in ("name", *OWN)}
    tree |= nested(flatten({name: tree[name] for name in ("name", *OWN) if name in tree}) | own, where)
    if tree.get("baseline") == {}:
        raise UserError(f"{where}: baseline: is empty; give seeds: [0], or remove it for one run with the base's seed")
    file = validated(SweepFile, tree, where)
    space = _read_space(file.space, given_space, where)
    for key, value in changes.items():
        if key in space:
            raise UserError(f"{key}: this sweep searches it (space in {where}), so {key}={value} would change nothing")
    own_keys = [f"{name}.{key}" for name, section in OWN.items() for key in section.model_fields]
    check_keys(changes, f"{where}: base", [*knobs(), "name", *own_keys])
    given = absolute_paths(overlay(flatten(file.base), changes))
    check_keys(given, f"{where}: base")
    defaults = {key: field.default for key, field in knobs().items()}
    base = {key: read_value(key, value, f"{where}: ") for key, value in (defaults | given).items()}
    points = _read_points(file.points, space, where)
    controls = tuple(_read_control(each, f"{where}: controls[{i}]") for i, each in enumerate(file.controls))
    baseline = file.baseline
    if base["observed.base_sigma"] == 0:
        baseline = baseline or Baseline(seeds=(base["seed"],))
    sweep = Sweep(file.name, base, space, points, controls, baseline, file.search, file.confirm, where)
    _check(sweep)
    return sweep


def is_config(tree: Values) -> bool:
    """Whether the file with these keys is the config of one run."""
    return "space" not in tree and bool(tree.keys() & {*SECTIONS, *knobs()} or not tree.keys() & SweepFile.model_fields)


def with_points(sweep: Sweep, rows: Iterable[Mapping[str, Any]]) -> Sweep:
    """The sweep with more points: what each row of an evaluations table has for searched keys, as far as it can be drawn.

    Raises UserError where no row has any, and for more points than trials.
    """
    points = list(sweep.points)
    for row in rows:
        point = {}
        for key, distribution in sweep.space.items():
            with contextlib.suppress(ValueError):  # outside the space; the sampler draws this key
                point[key] = distribution.read(row.get(key))
        point = conditions.active(sweep.space, point)
        if point and point not in points:
            points.append(point)
    if len(points) == len(sweep.points):
        raise UserError(f"--from: its frontier has no new values for {', '.join(sweep.space)} within this space")
    larger = replace(sweep, points=tuple(points))
    _check(larger)
    return larger


def write_sweep(sweep: Sweep, path: Path) -> None:
    """The resolved sweep as YAML, atomically."""
    write_atomic(path, yaml.safe_dump(sweep.dump(), sort_keys=False, allow_unicode=True).encode())


def check_name(where: str, name: str) -> None:
    """Raises UserError, which begins with `where`, for a name of a run that cannot name a folder."""
    if not NAME.fullmatch(name):
        raise UserError(f"{where}: {name!r} cannot name a folder; use letters, digits and . _ - only")


def _check(sweep: Sweep) -> None:
    """Raises UserError for sections that contradict each other."""
    where, base, search = sweep.where, sweep.base, sweep.search
    check_name(f"{where}: name", sweep.name)
    if sweep.baseline is not None and base["observed.base_sigma"] > 0:
        raise UserError(f"{where}: baseline: needs clean images, so observed.base_sigma=0; remove one of them")
    endless = [key for key, distribution in sweep.space.items() if math.isinf(distribution.size)]
    if search.sampler == "grid" and endless:
        raise UserError(f"{where}: search.sampler: grid needs a step or choices; space.{endless[0]} has neither")
    most = math.inf if search.trials is None and search.images is not None else search.trials or TRIALS
    if len(sweep.points) > most:
        raise UserError(f"{where}: points: {len(sweep.points)} of them, but search.trials={most}; raise search.trials")
    trials = sweep.fixed_trials()
    values = [_acting(overlay(base, trial.values)) | {"evaluation.lengths": ()} for trial in trials]
    for index, trial in enumerate(trials):
        if (first := values.index(values[index])) < index:
            key = "baseline.seeds" if trial.role == "baseline" else "controls"
            raise UserError(f"{where}: {key}: {trial.name}: the same training as {trials[first].name}; remove one")


def _acting(values: Values) -> Values:
    """A config's values, but for those that do not act on its training."""
    kind = values["objective.kind"]
    return {key: value for key, value in values.items() if key != "model.preset" and is_acting(key, kind)}


def _read_space(tree: Values, changes: Values, where: str) -> dict[str, Distribution]:
    tree = flatten(tree, within=SECTIONS)
    for key, spec in changes.items():
        if not isinstance(spec, dict):
            raise UserError(f"{key}: write a distribution, as in '{key}={{uniform: [0.1, 0.5]}}', not {shown(spec)}")
        name = key.removeprefix("space.")
        if name in tree:
            kind = read_distribution(tree[name], f"{where}: {key}", name).kind
            if spec.keys() & {*KINDS} - {kind}:
                raise UserError(f"{key}: is {kind} in {where}; its kind cannot change here, but its values can")
        tree[name] = {**tree.get(name, {}), **spec}
    if not tree:
        raise UserError(f"{where}: space: missing; give a key, as in observed.sigma: {{uniform: [0.1, 0.5]}}")
    check_keys(tree, f"{where}: space")
    _refuse_shared(tree, f"{where}: space", "searched")
    space = {key: read_distribution(spec, f"{where}: space.{key}", key) for key, spec in tree.items()}
    return conditions.check_conditions(space, where)


def _read_points(points: Iterable[Values], space: Mapping[str, Distribution], where: str) -> tuple[Values, ...]:
    read: list[Values] = []
    for index, point in enumerate(points):
        place = f"{where}: points[{index}]"
        values = Values()
        for key, value in flatten(point).items():
            if key not in space:
                near = did_you_mean(key, space, f"a point may name {', '.join(space)}")
                raise UserError(f"{place}: {key!r} is not searched; {near}")
            try:
                values[key] = space[key].read(read_value(key, value, f"{place}: "))
            except ValueError as error:
                raise UserError(f"{place}: {key}: {error}") from None
        if not values:
            raise UserError(f"{place}: is empty; name at least one key of the space, or remove it")
        for key in values.keys() - conditions.active(space, values).keys():
            needs = " and ".join(f"{parent} among {list(wanted)}" for parent, wanted in space[key].when)
            raise UserError(f"{place}: {key} needs {needs} in the point")
        if values in read:
            raise UserError(f"{place}: the same as points[{read.index(values)}]; remove one")
        read.append(values)
    return tuple(read)


def _read_control(control: Control, where: str) -> Control:
    changes = without_empty_sections(flatten(control.set))
    check_keys(changes, f"{where}.set")
    _refuse_shared(changes, f"{where}.set", "set per control")
    if "seed" in changes and control.seeds is not None:
        raise UserError(f"{where}: set.seed contradicts seeds; keep one")
    return control.model_copy(
        update={"set": {key: read_value(key, value, f"{where}.set: ") for key, value in changes.items()}}
    )


def _refuse_shared(keys: Iterable[str], where: str, what: str) -> None:
    for key in keys:
        if key.startswith(SHARED) or key in SHARED_KEYS:
            raise UserError(f"{where}: {key} may not be {what}, since trials are compared; put it in base")
