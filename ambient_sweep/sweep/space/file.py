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
confirm: {seeds: 3, top: 8}                # the best again, with fresh samples and seeds; off without it
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from ambient_sweep.config import Section, check_keys, describe, flatten, knobs, read_yaml
from ambient_sweep.config.files import absolute_paths, overlay
from ambient_sweep.errors import UserError
from ambient_sweep.storage import write_atomic
from ambient_sweep.sweep.space import conditions
from ambient_sweep.sweep.space.definition import TRIALS, Baseline, Confirm, Control, Search, Sweep
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
    for name in tree:
        if name not in SECTIONS:
            near = difflib.get_close_matches(str(name), SECTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"a sweep has {', '.join(SECTIONS)}"
            raise UserError(f"{where}: unknown key {name!r}; {hint}")
    space = _read_space(tree.get("space"), where)
    tree = {"name": path.stem, **tree}
    base, changes = flatten(_mapping(tree.get("base"), f"{where}: base")), dict[str, Any]()
    given, emptied = overrides or {}, {key: value for key, value in (overrides or {}).items() if value == {}}
    for key, value in (flatten(given) | emptied).items():
        section, _, inner = key.partition(".")
        if section in ("search", "baseline", "confirm") and inner:
            tree[section] = _nested(_mapping(tree.get(section), f"{where}: {section}"), where)
            _set(tree[section], inner, value, f"{where}: {section}")
        elif key == "name":
            tree["name"] = value
        elif key in space:
            raise UserError(f"{key}: this sweep searches it (space in {where}), so {key}={value} would change nothing")
        else:
            changes[key] = value
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
    base = {key: _plain(value) for key, value in (defaults | given).items()}
    controls = _read_controls(tree.get("controls"), where)
    search = _read_search(tree.get("search"), space, f"{where}: search")
    if "memory_gib" in search.constraints and base["resources.workers"] > 1:
        raise UserError(
            f"{where}: search.constraints.memory_gib: needs trials of one worker, but resources.workers="
            f"{base['resources.workers']}; remove it"
        )
    confirm = _section(Confirm, tree["confirm"], f"{where}: confirm") if "confirm" in tree else None
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
    return Sweep(name, base, space, points, controls, baseline, search, confirm, where)


def _read_space(tree: Any, where: str) -> dict[str, Distribution]:
    if not isinstance(tree, Mapping) or not tree:
        raise UserError(
            f"{where}: space: missing; give at least one key, as in observed.sigma: {{uniform: [0.1, 0.5]}}"
        )
    space = {str(key): read_distribution(spec, f"{where}: space.{key}") for key, spec in tree.items()}
    check_keys(space, f"{where}: space")
    _refuse_shared(space, f"{where}: space", "searched")
    return conditions.check_conditions(space, where)


def _read_search(tree: Any, space: Mapping[str, Distribution], where: str) -> Search:
    search = _section(Search, _nested(_mapping(tree, where), where), where)
    if search.sampler == "grid":
        for key, distribution in space.items():
            if math.isinf(distribution.size):
                raise UserError(f"{where}.sampler: grid needs a step or choices; space.{key} has neither")
    return search


def _nested(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A section whose keys may be dotted as one whose keys are nested."""
    nested: dict[str, Any] = {}
    for key, value in flatten(tree).items():
        _set(nested, key, value, where)
    return nested


def _set(tree: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Gives a dotted key its value."""
    *folders, name = key.split(".")
    for folder in folders:
        tree[folder] = dict(_mapping(tree.get(folder), f"{where}: {folder}"))
        tree = tree[folder]
    tree[name] = value


def _read_points(tree: Any, space: Mapping[str, Distribution], where: str) -> tuple[dict[str, Any], ...]:
    points = []
    for index, point in enumerate(_sequence(tree, f"{where}: points")):
        place = f"{where}: points[{index}]"
        values = flatten(_mapping(point, place))
        read = {}
        for key, value in values.items():
            if key not in space:
                raise UserError(f"{place}: {key!r} is not searched; a point may name {', '.join(space)}")
            try:
                read[key] = space[key].read(value)
            except ValueError as error:
                raise UserError(f"{place}: {key}: {value!r} {error}") from None
        if not read:
            raise UserError(f"{place}: is empty; name at least one key of the space, or remove it")
        for key in read:
            if key not in conditions.active(space, read):
                needs = " and ".join(f"{parent} among {list(values)}" for parent, values in space[key].when)
                raise UserError(f"{place}: {key} needs {needs} in the point")
        points.append(read)
    return tuple(points)


def _read_controls(tree: Any, where: str) -> tuple[Control, ...]:
    controls = []
    for index, item in enumerate(_sequence(tree, f"{where}: controls")):
        place = f"{where}: controls[{index}]"
        values = dict(_mapping(item, place))
        changes = flatten(_mapping(values.get("set"), f"{place}.set"))
        check_keys(changes, f"{place}.set")
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
    try:
        return kind.model_validate(dict(_mapping(tree, where)))
    except ValidationError as error:
        for unknown in (e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"):
            *folders, name = map(str, unknown)
            inner: Any = kind
            for folder in folders:
                inner = inner.model_fields[folder].annotation
            place = ".".join((where, *folders))
            raise UserError(f"{place}: unknown key {name!r}; it has {', '.join(inner.model_fields)}") from None
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


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
