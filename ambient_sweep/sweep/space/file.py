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

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from ambient_sweep.config import Section, check_keys, describe, flatten, knobs, read_yaml
from ambient_sweep.config.files import absolute_paths, did_you_mean, nested, overlay, read_value, without_empty_sections
from ambient_sweep.errors import UserError
from ambient_sweep.storage import write_atomic
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import TRIALS, Baseline, Confirm, Control, Search, Stopping, Sweep
from ambient_sweep.sweep.space.distributions import Distribution, read_distribution

SWEEP_FILE = "sweep.yaml"  # in the folder of a sweep
SECTIONS = ("name", "base", "space", "points", "controls", "baseline", "search", "confirm")
SHARED = ("data.", "evaluation.", "resources.")  # one value for all trials of a sweep
SHARED_KEYS = ("observed.base_sigma", "observed.seed")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
S = TypeVar("S", bound=Section)


# -- reading --------------------------------------------------------------------------------------------------------


def load_sweep(path: Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """The sweep in a YAML file, with `overrides` on config keys of its base and on its `search.*`,
    `confirm.*`, `name`, `baseline.seeds`.

    Raises UserError, one line that names the file and the key.
    """
    tree = read_yaml(path)
    where = str(path)
    check_keys(tree, where, SECTIONS, f"a sweep has {', '.join(SECTIONS)}, and x-... for shared parts")
    space = _read_space(tree.get("space"), where)
    tree["name"] = path.stem if tree.get("name") is None else tree["name"]
    base, changes = flatten(_mapping(tree.get("base"), f"{where}: base")), dict[str, Any]()
    for key, value in flatten(overrides or {}).items():
        section, _, inner = key.partition(".")
        if section in ("search", "baseline", "confirm") and inner:
            tree[section] = flatten(_mapping(tree.get(section), f"{where}: {section}")) | {inner: value}
        elif key == "name":
            tree["name"] = value
        elif key in space:
            raise UserError(f"{key}: this sweep searches it (space in {where}), so {key}={value} would change nothing")
        else:
            changes[key] = value
    own = [*(f"search.{key}" for key in Search.model_fields), *(f"confirm.{key}" for key in Confirm.model_fields)]
    check_keys(changes, f"{where}: base", [*knobs(), "name", "baseline.seeds", *own])
    return _build(tree, (base, changes), space, where)


def write_sweep(sweep: Sweep, path: Path) -> None:
    """The resolved sweep as YAML, atomically."""
    write_atomic(path, yaml.safe_dump(sweep.dump(), sort_keys=False, allow_unicode=True).encode())


def _build(
    tree: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], space: dict[str, Distribution], where: str
) -> Sweep:
    """`layers`: the file's base and what overlays it, of which each has its own presets."""
    name = tree["name"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{where}: name: {name!r} cannot name a folder; use letters, digits and . _ - only")
    given = absolute_paths(overlay(*layers))
    check_keys(given, f"{where}: base")
    defaults = {key: default for key, (_, default) in knobs().items()}
    base = {key: read_value(key, value, f"{where}: ") for key, value in (defaults | given).items()}
    controls = _read_controls(tree.get("controls"), where)
    search = _read_search(tree.get("search"), space, f"{where}: search")
    if "memory_gib" in search.constraints and base["resources.workers"] > 1:
        raise UserError(
            f"{where}: search.constraints.memory_gib: needs trials of one worker, but resources.workers="
            f"{base['resources.workers']}; remove it"
        )
    confirm = _section(Confirm, tree.get("confirm", {}), f"{where}: confirm")
    points = _read_points(tree.get("points"), space, where)
    most = math.inf if search.trials is None and search.images is not None else search.trials or TRIALS
    if len(points) > most:
        raise UserError(f"{where}: points: {len(points)} of them, but search.trials={most}; raise search.trials")
    base_sigma = base["observed.base_sigma"]
    baseline: Baseline | None = None
    if base_sigma == 0:
        baseline = _section(Baseline, tree.get("baseline", {"seeds": [base["seed"]]}), f"{where}: baseline")
    elif tree.get("baseline") is not None:
        raise UserError(
            f"{where}: baseline: needs clean images, but observed.base_sigma={base_sigma}; remove the baseline"
        )
    sweep = Sweep(name, base, space, points, controls, baseline, search, confirm, where)
    trials = sweep.fixed_trials()
    values = [overlay(base, trial.values) | {"evaluation.lengths": ()} for trial in trials]
    for index, trial in enumerate(trials):
        if (first := values.index(values[index])) < index:
            raise UserError(f"{where}: {trial.name}: the same training as {trials[first].name}; remove one")
    return sweep


def _read_space(tree: Any, where: str) -> dict[str, Distribution]:
    if not isinstance(tree, Mapping) or not tree:
        raise UserError(
            f"{where}: space: missing; give at least one key, as in observed.sigma: {{uniform: [0.1, 0.5]}}"
        )
    check_keys(tree, f"{where}: space")
    space = {key: read_distribution(spec, f"{where}: space.{key}", key) for key, spec in tree.items()}
    _refuse_shared(space, f"{where}: space", "searched")
    return conditions.check_conditions(space, where)


def _read_search(tree: Any, space: Mapping[str, Distribution], where: str) -> Search:
    search = _section(Search, nested(flatten(_mapping(tree, where)), where), where)
    if search.sampler == "grid":
        for key, distribution in space.items():
            if math.isinf(distribution.size):
                raise UserError(f"{where}.sampler: grid needs a step or choices; space.{key} has neither")
    return search


def _read_points(tree: Any, space: Mapping[str, Distribution], where: str) -> tuple[dict[str, Any], ...]:
    points: list[dict[str, Any]] = []
    for index, point in enumerate(_sequence(tree, f"{where}: points")):
        place = f"{where}: points[{index}]"
        values = flatten(_mapping(point, place))
        read = {}
        for key, value in values.items():
            if key not in space:
                near = did_you_mean(key, space, f"a point may name {', '.join(space)}")
                raise UserError(f"{place}: {key!r} is not searched; {near}")
            own = read_value(key, value, f"{place}: ")
            try:
                read[key] = space[key].read(own)
            except ValueError as error:
                raise UserError(f"{place}: {key}: {own!r} {error}") from None
        if not read:
            raise UserError(f"{place}: is empty; name at least one key of the space, or remove it")
        for key in read:
            if key not in conditions.active(space, read):
                needs = " and ".join(f"{parent} among {list(values)}" for parent, values in space[key].when)
                raise UserError(f"{place}: {key} needs {needs} in the point")
        if read in points:
            raise UserError(f"{place}: the same as points[{points.index(read)}]; remove one")
        points.append(read)
    return tuple(points)


def _read_controls(tree: Any, where: str) -> tuple[Control, ...]:
    controls = []
    for index, item in enumerate(_sequence(tree, f"{where}: controls")):
        place = f"{where}: controls[{index}]"
        values = dict(_mapping(item, place))
        changes = without_empty_sections(flatten(_mapping(values.get("set"), f"{place}.set")))
        check_keys(changes, f"{place}.set")
        changes = {key: read_value(key, value, f"{place}.set: ") for key, value in changes.items()}
        _refuse_shared(changes, f"{place}.set", "set per control")
        if "seed" in changes and "seeds" in values:
            raise UserError(f"{place}: set.seed contradicts seeds; keep one")
        controls.append(_section(Control, values | {"set": changes}, place))
    return tuple(controls)


def _refuse_shared(keys: Iterable[str], where: str, what: str) -> None:
    for key in keys:
        if key.startswith(SHARED) or key in SHARED_KEYS:
            raise UserError(
                f"{where}: {key} may not be {what}: the trials of a sweep are compared with each other; put it in base"
            )


def _section(kind: type[S], tree: Any, where: str) -> S:
    values = dict(_mapping(tree, where))
    check_keys(values, where, kind.model_fields, f"it has {', '.join(kind.model_fields)}")
    if "stopping" in values:
        values["stopping"] = _section(Stopping, values["stopping"], f"{where}.stopping")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}.{describe(error)}") from None


def _mapping(tree: Any, where: str) -> Mapping[str, Any]:
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: expected a mapping of keys to values, not {tree!r}")
    return tree


def _sequence(tree: Any, where: str) -> list[Any]:
    if tree is None:
        return []
    if not isinstance(tree, list):
        raise UserError(f"{where}: expected a list, not {tree!r}")
    return tree
