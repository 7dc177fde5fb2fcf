"""Configs from files, overrides and presets, and back to files."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ambient_sweep.config.presets import expand_preset
from ambient_sweep.config.sections import Config, Section, UnknownKey
from ambient_sweep.config.values import UNWRITABLE, did_you_mean, read_number, shown
from ambient_sweep.config.yaml_reader import flatten as flatten
from ambient_sweep.config.yaml_reader import load
from ambient_sweep.errors import UserError
from ambient_sweep.object_client import TAKEN
from ambient_sweep.storage import write_atomic

# workers run in another directory
PATH_KEYS = ("data.path", "evaluation.path", "evaluation.weights_folder", "evaluation.encoder_file", "model.base")
MAPPING, LIST, WHOLE = "expected a mapping of keys to values", "expected a list in brackets", "expected a whole number"
NUMBER, SWITCH = "expected a number", "expected true or false"
PLAIN = {  # by pydantic's types of errors
    "model_type": MAPPING, "dict_type": MAPPING, "list_type": LIST, "tuple_type": LIST, "string_type": "expected text",
    "string_unicode": "expected text in UTF-8",
    "int_type": WHOLE, "int_parsing": WHOLE, "int_from_float": WHOLE, "int_parsing_size": f"{WHOLE} of at most 19 digits",
    "float_type": NUMBER, "float_parsing": NUMBER, "finite_number": "expected a finite number",
    "bool_type": SWITCH, "bool_parsing": SWITCH, "literal_error": "expected {expected}", "missing": "expected a value",
    "greater_than": "must be above {gt}", "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}", "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}", "string_pattern_mismatch": "must match {pattern}",
    "too_short": "expected at least {min_length} value", "too_long": "expected at most {max_length} values",
}  # fmt: skip
PROBLEMS = {  # by how PyYAML's messages begin
    "found character '\\t'": "found a tab; indent with spaces",
    "second occurrence": "an anchor of this name was given before; give it another name",
    "but found another document": "a second document begins here; keep one in a file",
    "found unconstructable recursive node": "this anchor contains itself; repeat what it holds",
    "expected <block end>": "this does not continue what stands above; check the indentation and brackets",
    "expected '<document start>'": "expected a key and its value",
    "expected the node content": "expected a value",
    "could not determine a constructor": "a tag as !this is not read here; remove it",
    "found unhashable key": "a key must be a word, not a list or a mapping",
    "mapping values are not allowed here": "a colon is out of place; check the indentation, and quote text that holds one",
}
S = TypeVar("S", bound=Section)


def _fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted keys in order, sections before what they hold."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        if isinstance(field.default, Section):
            yield from _fields(type(field.default), f"{prefix}{name}.")


FIELDS = dict(_fields(Config))
SECTIONS = {key: type(field.default) for key, field in FIELDS.items() if isinstance(field.default, Section)}
KNOBS = {key: field for key, field in FIELDS.items() if key not in SECTIONS}


def knobs() -> Mapping[str, FieldInfo]:
    """Every dotted key with its pydantic field, in order."""
    return KNOBS


def dump(config: Config) -> dict[str, Any]:
    """All values under their dotted keys, as plain JSON types."""
    return flatten(config.model_dump(mode="json"))


def check_keys(
    keys: Iterable[str],
    where: str = "config",
    known: Collection[str] = KNOBS,
    otherwise: str = "`ambient-sweep knobs` lists the keys",
) -> None:
    """Raises UserError for the first key that is not known, by default as a knob, with the nearest that is."""
    for key in keys:
        if key not in known:
            if known is KNOBS and key in SECTIONS:
                raise UserError(f"{where}: {key}: {MAPPING}")
            raise UserError(f"{where}: unknown key {key!r}; {did_you_mean(key, known, otherwise)}")


def overlay(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted keys of `layers`, later ones winning; in a layer, the values of its preset lie under its own keys."""
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(expand_preset(flatten(layer)))
    return without_empty_sections(values)


def without_empty_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, but for sections that name no key."""
    return {key: value for key, value in values.items() if key not in SECTIONS or value not in (None, {})}


def build_config(*layers: Mapping[str, Any], where: str = "config") -> Config:
    """The config of the defaults overlaid by `layers`, later ones winning.

    Raises UserError, one line that names the key, for unknown keys, values out of range and contradictions.
    """
    values = overlay(*layers)
    check_keys(values, where)
    return validated(Config, nested(values, where), where)


def validated(kind: type[S], values: Any, where: str) -> S:
    """A section with these values. Raises UserError, one line that begins with `where` and names the key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error)}") from None


def read_value(key: str, value: Any, place: str) -> Any:
    """A knob's value in its own type, as plain JSON; that of no knob as it is. Raises UserError, `place` and `key` first."""
    section, dot, name = key.rpartition(".")
    if key not in knobs():
        return value
    try:
        parsed = SECTIONS.get(section, Config).model_validate({name: value})
    except ValidationError as error:
        raise UserError(f"{place}{section}{dot}{describe(error)}") from None
    own = parsed.model_dump(mode="json", include={name})[name]
    return read_number(value) if isinstance(own, float) else own  # 1 stays 1 where 1.0 is meant


def nested(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Dotted keys to nested ones. Raises UserError where a key stands for a value and for a section."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *folders, name = key.split(".")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise UserError(f"{where}: {key}: {folder}: {MAPPING}, not {inner!r}")
        inner[name] = value
    return tree


def describe(error: ValidationError) -> str:
    """A pydantic error as one line: key, complaint, value."""
    lines: list[str] = []
    errors = error.errors()
    for item in errors:
        within = [other for other in errors if other is not item and other["loc"][: len(item["loc"])] == item["loc"]]
        if within:  # what is wrong with a part is enough
            continue
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"] if part != "[key]")
        key = key.removeprefix(".")
        kind, context = item["type"], item.get("ctx", {})
        plain = PLAIN.get(kind, "").format_map(context)
        message = plain or item["msg"].removeprefix("Value error, ")
        text = f"{key}: {message[0].lower()}{message[1:]}" if key else message
        if key and not isinstance(context.get("error"), UnknownKey):
            text += f", not {shown(item['input'])}"
        words = re.findall("'(.*?)'", context["expected"]) if kind == "literal_error" else ()
        near = did_you_mean(item["input"], words, "")
        lines.append(f"{text}; {near}" if near else text)
    return "; ".join(lines)


def parse_overrides(pairs: Iterable[str], allowed: tuple[str, ...] = ("",)) -> dict[str, Any]:
    """`key=value` words to a mapping; lists and mappings as in YAML, other values as text.

    Raises UserError, also for a key that begins with none of `allowed`.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{pair!r}: expected key=value, as in observed.sigma=0.3")
        if key in values:
            raise UserError(f"{key}: given twice; keep one")
        if not key.startswith(allowed):
            raise UserError(f"{key}: keys must begin with {' or '.join(allowed)} here")
        try:
            values[key] = load(text) if text in ("", "~", "null") or text[0] in "[{\"'" else text
        except yaml.YAMLError as error:
            raise UserError(f"{key}: cannot read the value {text!r}: {_problem(error)}") from None
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping, without blocks named x-..., which hold what others share by anchors.

    Raises UserError that names the file, line and complaint.
    """
    try:
        tree = load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {str(error.strerror).lower()}; give the YAML file of a sweep or config") from None
    except yaml.reader.ReaderError:
        raise UserError(f"{path}: is not text in UTF-8; save it as UTF-8, without control characters") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise UserError(f"{path}:{place} {_problem(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of keys to values")
    return {name: value for name, value in tree.items() if not name.startswith("x-")}


def _problem(error: yaml.YAMLError) -> str:
    problem = str(getattr(error, "problem", "not text in UTF-8, without control characters"))
    return next((plain for start, plain in PROBLEMS.items() if problem.startswith(start)), problem)


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config in a YAML file, overlaid by `overrides`; relative paths in it become absolute."""
    given, changes = (absolute_paths(flatten(layer)) for layer in (read_yaml(path), overrides or {}))
    if any(key.partition(".")[0] == "space" for key in given):
        raise UserError(f"{path}: is a sweep, not the config of one run; use `ambient-sweep run`")
    return build_config(given, changes, where=str(path))


def absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: str(lasting_path(key, Path(value))) if key in PATH_KEYS and isinstance(value, str) else value
        for key, value in values.items()
    }


def expanded(key: str, path: Path) -> Path:
    """`path` with `~` replaced by the home folder. Raises UserError, naming `key`, where there is none, and for a URL."""
    if re.match(r"[A-Za-z][\w+.-]+:/", str(path)):  # whose // a path does not keep
        raise UserError(
            f"{key}: {path.parts[0]}//...: expected a path; runs and tables may lie at a URL, which begins with {TAKEN}"
        )
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{key}: {path}: there is no such home folder; give an absolute path") from None


def lasting_path(key: str, path: Path) -> Path:
    """`path` made absolute.

    Raises UserError, naming `key`, where it would end with the working copy of a Ray job, or records cannot name it.
    """
    path = expanded(key, path)
    if UNWRITABLE.search(str(path.absolute())):
        raise UserError(f"{key}: {str(path.absolute())!r} is not UTF-8, or holds control characters; rename the folder")
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # as Ray sets it for what `ray job submit` runs
    if in_job and (not path.is_absolute() or "runtime_resources" in path.resolve().parts):
        raise UserError(
            f"{key}: {path} is in this Ray job's temporary folder; give an absolute path that every node sees"
        )
    return path.absolute()


def write_config(config: Config, path: Path, header: str = "") -> None:
    """All values as YAML that `load_config` reads back to an equal config; atomically. Raises OSError that names `path`.

    What differs from the defaults comes first.
    """
    values, defaults = dump(config), dump(Config())
    own = {key: value for key, value in values.items() if value != defaults[key]}
    same = {key: value for key, value in values.items() if key not in own}
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    kept = "\n# The defaults of this version, kept so that those of later ones change nothing:\n"
    parts = (yaml.safe_dump(part, sort_keys=False) if part else "" for part in (nested(own, str(path)), same))
    write_atomic(path, (comment + kept.join(parts)).encode())
