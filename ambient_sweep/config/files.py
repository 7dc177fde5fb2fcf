"""Configs from files, overrides and presets, and back to files."""

import codecs
import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ambient_sweep.config.presets import expand_preset
from ambient_sweep.config.sections import Config, Section
from ambient_sweep.config.values import UNWRITABLE, read_number
from ambient_sweep.config.yaml_reader import flatten as flatten
from ambient_sweep.config.yaml_reader import load
from ambient_sweep.errors import UserError
from ambient_sweep.storage import write_atomic

# workers run in another directory
PATH_KEYS = ("data.path", "evaluation.path", "evaluation.weights_folder", "evaluation.encoder_file")
LISTED = "`ambient-sweep knobs` lists the keys"


def _sections(section: type[Section], prefix: str = "") -> dict[str, type[Section]]:
    found: dict[str, type[Section]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= {prefix + name: field.annotation, **_sections(field.annotation, f"{prefix}{name}.")}
    return found


SECTIONS = _sections(Config)


def dump(config: Config) -> dict[str, Any]:
    """All values under their dotted keys, as plain JSON types."""
    return flatten(config.model_dump(mode="json"))


def knobs() -> dict[str, tuple[Any, Any]]:
    """Every dotted key with its pydantic field and its default, in order."""
    return _knobs(Config)


def _knobs(section: type[Section], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    result: dict[str, tuple[Any, Any]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            result |= _knobs(field.annotation, f"{prefix}{name}.")
        else:
            result[prefix + name] = (field, field.default)
    return result


def check_keys(
    keys: Iterable[str], where: str = "config", known: Collection[str] | None = None, otherwise: str = LISTED
) -> None:
    """Raises UserError for the first key that is not known, by default as a knob, with the nearest that is."""
    known = knobs() if known is None else known
    for key in keys:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}; {did_you_mean(key, known, otherwise)}")


def did_you_mean(word: object, known: Iterable[str], otherwise: str) -> str:
    """The nearest known word as a question, first among keys of this name in other sections; `otherwise` if none is near."""
    lower = {each.lower(): each for each in known}
    key = str(word).lower()
    namesakes = [each for each in lower if each.rpartition(".")[2] == key.rpartition(".")[2]]
    near = difflib.get_close_matches(key, namesakes or lower, n=1, cutoff=0 if namesakes else 0.6)
    return f"did you mean {lower[near[0]]!r}?" if near else otherwise


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
    try:
        return Config.model_validate(nested(values, where))
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
                raise UserError(f"{where}: {folder}: expected a mapping of keys to values, not {inner!r}")
        inner[name] = value
    return tree


def describe(error: ValidationError) -> str:
    """A pydantic error as one line: key, complaint, value."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "too_short":
            message = f"expected at least {item['ctx']['min_length']} value"
        text = f"{key}: {message[0].lower()}{message[1:]}, not {item['input']!r}" if key else message
        words = re.findall("'(.*?)'", item["ctx"]["expected"]) if item["type"] == "literal_error" else ()
        near = did_you_mean(item["input"], words, "")
        lines.append(f"{text}; {near}" if near else text)
    return "; ".join(lines)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` words to a mapping; lists and mappings as in YAML, other values as text. Raises UserError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{pair!r}: expected key=value, as in observed.sigma=0.3")
        if key in values:
            raise UserError(f"{key}: given twice; keep one")
        try:
            values[key] = load(text) if text in ("", "~", "null") or text[0] in "[{\"'" else text
        except yaml.YAMLError as error:
            raise UserError(f"{key}: cannot read the value {text!r}: {getattr(error, 'problem', 'not YAML')}") from None
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping, without blocks named x-..., which hold what others share by anchors.

    Raises UserError that names the file, line and complaint.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give the YAML file of a sweep or config") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
        tree = load(text)
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise UserError(f"{path}: is not text in UTF-8; save it as UTF-8, without control characters") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = str(error.problem).replace("character '\\t' that cannot start any token", "a tab; indent with spaces")
        raise UserError(f"{path}:{place} {problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of keys to values")
    return {name: value for name, value in tree.items() if not name.startswith("x-")}


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config in a YAML file, overlaid by `overrides`; relative paths in it become absolute."""
    layers = [absolute_paths(flatten(layer)) for layer in (read_yaml(path), overrides or {})]
    if any(key.partition(".")[0] == "space" for layer in layers for key in layer):
        raise UserError(f"{path}: is a sweep, not the config of one run; use `ambient-sweep run`")
    return build_config(*layers, where=str(path))


def absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: str(lasting_path(key, Path(value))) if key in PATH_KEYS and isinstance(value, str) else value
        for key, value in values.items()
    }


def lasting_path(key: str, path: Path) -> Path:
    """`path` made absolute.

    Raises UserError, naming `key`, where it would end with the working copy of a Ray job, or records cannot name it.
    """
    path = path.expanduser()
    if UNWRITABLE.search(str(path.absolute())):
        raise UserError(f"{key}: {str(path.absolute())!r} is not UTF-8, or holds control characters; rename the folder")
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # as Ray sets it for what `ray job submit` runs
    if in_job and (not path.is_absolute() or "runtime_resources" in path.resolve().parts):
        raise UserError(
            f"{key}: {path} is in the temporary folder in which this Ray job runs; give an absolute path outside of it that "
            "every node sees"
        )
    return path.absolute()


def write_config(config: Config, path: Path, header: str = "") -> None:
    """All values as YAML that `load_config` reads back to an equal config; atomically. Raises OSError that names `path`."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    write_atomic(path, (comment + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)).encode())
